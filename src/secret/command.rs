//! A keyring from a program's output, for secret stores that have a command line.
//!
//! Owns: running the program (no shell), its deadline, the cap on its output. Does not own: the text (`text`).

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use super::file::read_all;
use super::keyring::Keyring;
use super::{RING_BYTES_MAX, SecretError};

/// How long the program may take until its output ends.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often, and how many times, its exit is looked for after its output has ended: 1 s together.
const EXIT_POLL: Duration = Duration::from_millis(20);
const EXIT_POLLS: u32 = 50;

impl Keyring {
    /// Runs the program that a reference `command:PROGRAM ARG ...` names and reads a ring from its standard output. Its
    /// standard error is not shown: what it says there may hold secrets.
    ///
    /// # Errors
    /// If it cannot be started, fails, takes longer than 10 s, or prints no ring.
    pub fn from_command(program: &str, arguments: &[String]) -> Result<Self, SecretError> {
        run(program, arguments, DEADLINE, RING_BYTES_MAX)
    }
}

pub(super) fn run(
    program: &str,
    arguments: &[String],
    deadline: Duration,
    bytes_max: usize,
) -> Result<Keyring, SecretError> {
    let failed = |problem: String| SecretError::Command { program: program.to_owned(), problem };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // A group of its own, so that what it has started can be ended with it.
        .process_group(0)
        .spawn()
        .map_err(|error| failed(format!("cannot be started ({error})")))?;
    let (output, status) = match output(&mut child, deadline, bytes_max) {
        Ok(finished) => finished,
        Err(problem) => {
            end(&mut child);
            return Err(failed(problem));
        }
    };
    if !status.success() {
        return Err(failed(format!("failed ({status})")));
    }
    Keyring::from_bytes(Some(&output), &format!("the output of the key command {program}"))
}

type Output = zeroize::Zeroizing<Vec<u8>>;

/// Its output and exit; the child still runs where this fails.
fn output(child: &mut Child, deadline: Duration, bytes_max: usize) -> Result<(Output, ExitStatus), String> {
    let stdout = child.stdout.take().ok_or("has no output")?;
    let output = match read_within(stdout, deadline, bytes_max) {
        Ok(read) => read.map_err(|error| format!("has unreadable output ({error})"))?,
        Err(_) => return Err(format!("took longer than {} s", deadline.as_secs_f32())),
    };
    let output = output.ok_or_else(|| format!("printed more than {bytes_max} bytes"))?;
    for _ in 0..EXIT_POLLS {
        match child.try_wait() {
            Ok(Some(status)) => return Ok((output, status)),
            Ok(None) => thread::sleep(EXIT_POLL),
            Err(error) => return Err(format!("cannot be waited for ({error})")),
        }
    }
    Err("closed its output but did not end".to_owned())
}

/// Reads in a thread of its own, since a pipe has no time-out. Past the deadline the thread ends once the program, and all
/// that it has started, are gone.
fn read_within(
    mut stdout: ChildStdout,
    deadline: Duration,
    bytes_max: usize,
) -> Result<io::Result<Option<Output>>, RecvTimeoutError> {
    let (done, outcome) = mpsc::channel();
    thread::spawn(move || {
        // Nobody listens any more past the deadline.
        drop(done.send(read_all(&mut stdout, bytes_max)));
    });
    outcome.recv_timeout(deadline)
}

fn end(child: &mut Child) {
    // Both fail only where it has ended by itself.
    kill_process_group(Pid::from_child(child), Signal::KILL).ok();
    child.wait().ok();
}
