//! The whole journey, measured from outside: the real binary on loopback, 4 clients, defaults otherwise.
//!
//! Prints events/s, CPU microseconds per event of the server process (user + system, from socket to committed Parquet,
//! shutdown included), its peak resident memory, and bytes per event in the table's data files. `--test` runs it briefly.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench prints, reads the real clock, and must stop where something is amiss"
)]

#[path = "load.rs"]
mod load;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const CLIENTS: usize = 4;
/// Distinct requests that each client holds ready; their times and trace ids are changed before each is sent.
const READY: usize = 200;

fn main() {
    let brief = std::env::args().any(|argument| argument == "--test");
    let requests = if brief { 40 } else { 4_000 };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut server = Server::start(folder.path());
    let before = server.cpu();
    let started = Instant::now();
    let sent = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (sent, address) = (&sent, server.http.clone());
            scope.spawn(move || drive(client, &address, sent, requests));
        }
    });
    let acknowledged = started.elapsed();
    let peak_under_load = server.peak_memory_kib();
    let after = server.stop();
    let total = started.elapsed();
    let events = requests * load::RECORDS as u64;
    let (files, bytes) = data_files(&folder.path().join("data/warehouse/product/events/data"));
    println!(
        "events                      {events} in {requests} requests from {CLIENTS} clients, all acknowledged after fdatasync"
    );
    println!("acknowledged                {:.0} events/s", rate(events, acknowledged));
    println!("committed (drained)         {:.0} events/s", rate(events, total));
    println!(
        "server CPU                  {:.2} us per event",
        (after - before).as_secs_f64() * 1e6 / events as f64
    );
    println!("peak resident memory        {:.0} MiB", peak_under_load as f64 / 1024.0);
    println!("data files                  {files}, {:.1} bytes per event", bytes as f64 / events as f64);
}

fn rate(events: u64, time: Duration) -> f64 {
    events as f64 / time.as_secs_f64()
}

/// Sends this client's share of the requests over one connection.
fn drive(client: usize, address: &str, sent: &AtomicU64, requests: u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_nanos() as u64;
    let mut ready: Vec<load::Request> =
        (0..READY).map(|place| load::Request::new((client * READY + place) as u64 + 1, now)).collect();
    let mut random = load::Random::new(client as u64 + 77);
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_nodelay(true).expect("a socket option");
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    loop {
        let number = sent.fetch_add(1, Ordering::Relaxed);
        if number >= requests {
            return;
        }
        let request = &mut ready[(number % READY as u64) as usize];
        request.renew(1_000, &mut random);
        let body = &request.body;
        write!(
            stream,
            "POST /v1/logs HTTP/1.1\r\nHost: esker\r\nContent-Type: application/x-protobuf\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .and_then(|()| stream.write_all(body))
        .expect("the server reads");
        assert_eq!(status(&mut reader), 200, "a request was not acknowledged");
    }
}

/// Reads one answer.
fn status(reader: &mut BufReader<TcpStream>) -> u16 {
    let (mut status, mut length) = (0, 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("an answer");
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
            status = rest[..3].parse().expect("a status code");
        } else if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("the answer's body");
    status
}

struct Server {
    child: Child,
    http: String,
}

impl Server {
    fn start(folder: &Path) -> Self {
        let schemas = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/schemas");
        let mut child = Command::new(env!("CARGO_BIN_EXE_esker"))
            .arg("serve")
            .env("ESKER_DATA_DIR", folder.join("data"))
            .env("ESKER_SCHEMAS", schemas)
            .env("ESKER_RECEIVE__GRPC", "127.0.0.1:0")
            .env("ESKER_RECEIVE__HTTP", "127.0.0.1:0")
            .env("ESKER_RECEIVE__ADMIN", "127.0.0.1:0")
            .env("ESKER_LOG__FILTER", "warn")
            .current_dir(folder)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut line).expect("the ready line");
        let ready: serde_json::Value = serde_json::from_str(&line).expect("one JSON line");
        let http = ready["http"].as_str().expect("the HTTP address").to_owned();
        Self { child, http }
    }

    /// User and system time so far.
    fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("proc");
        let after_name = stat.rsplit_once(')').expect("a process name").1;
        let ticks: u64 = after_name
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|field| field.parse::<u64>().expect("ticks"))
            .sum();
        let per_second = rustix::param::clock_ticks_per_second();
        Duration::from_secs_f64(ticks as f64 / per_second as f64)
    }

    fn peak_memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("proc");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
        line.split_whitespace().nth(1).expect("a number").parse().expect("kibibytes")
    }

    /// Stops the server as an operator would, and says how much CPU it took in all.
    fn stop(&mut self) -> Duration {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("the server runs");
        let mut last = self.cpu();
        loop {
            if self.child.try_wait().expect("the server is ours").is_some() {
                return last;
            }
            // A zombie's stat still shows its times; after try_wait it is gone.
            last = self.cpu().max(last);
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already gone after `stop`; this is for a bench that failed before.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn data_files(folder: &Path) -> (usize, u64) {
    let (mut files, mut bytes) = (0, 0);
    for entry in std::fs::read_dir(folder).expect("the table's data folder") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_dir() {
            let (more, size) = data_files(&entry.path());
            files += more;
            bytes += size;
        } else {
            files += 1;
            bytes += entry.metadata().expect("metadata").len();
        }
    }
    (files, bytes)
}
