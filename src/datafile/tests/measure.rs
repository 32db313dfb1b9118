use super::*;
use std::time::Instant;
struct Rng(u64);
impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545F4914F6CDD1D)
    }
}
fn hex(r: &mut Rng, n: usize) -> String {
    let mut s = String::new();
    while s.len() < n {
        s.push_str(&format!("{:016x}", r.next()));
    }
    s.truncate(n);
    s
}
pub(crate) fn load(rows: usize, per: usize) -> (Vec<RecordBatch>, Arc<Schema>, Vec<ColumnPolicy>) {
    let mut r = Rng(88172645463325252);
    let users: Vec<String> = (0..5000)
        .map(|_| {
            let h = hex(&mut r, 64);
            let mut b = String::from("e1_k3f9a2c1_");
            for c in h.as_bytes().chunks(3).take(42) {
                let v = c.iter().fold(0u32, |a, x| a * 16 + (*x as char).to_digit(16).unwrap()) % 64;
                b.push(
                    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[v as usize] as char,
                );
            }
            while b.len() < 54 {
                let v = r.next() % 64;
                b.push(
                    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[v as usize] as char,
                );
            }
            b
        })
        .collect();
    let names: Vec<String> = (0..90).map(|i| format!("workflows.change_request.kind_{i}")).collect();
    let id = |i: usize, f: Field| {
        f.with_metadata(HashMap::from([("PARQUET:field_id".to_string(), (i + 1).to_string())]))
    };
    let env = [
        "event_id",
        "event_name",
        "category",
        "event_time",
        "received_time",
        "service_name",
        "service_version",
        "scope_name",
        "severity",
        "trace_id",
        "span_id",
        "consent",
        "policy_version",
    ];
    let mut fields = vec![];
    let mut pol = vec![];
    for (i, n) in env.iter().enumerate() {
        let ts = n.ends_with("_time");
        let req = ["event_id", "event_name", "category", "event_time", "received_time"].contains(n);
        fields.push(id(i, Field::new(*n, if ts { timestamp() } else { DataType::Utf8 }, !req)));
        pol.push(ColumnPolicy { bloom: *n == "event_id", bounds: *n != "event_id" });
    }
    let base = fields.len();
    let attrs = [
        "organisation_id",
        "project_id",
        "environment_id",
        "feature_id",
        "change_request_id",
        "user_id",
        "flag_enabled",
        "segment_count",
        "duration",
        "source",
        "locale",
        "plan",
    ];
    for (k, n) in attrs.iter().enumerate() {
        let ty = match *n {
            "organisation_id" | "project_id" | "environment_id" | "feature_id" | "change_request_id"
            | "segment_count" => DataType::Int64,
            "flag_enabled" => DataType::Boolean,
            "duration" => DataType::Float64,
            _ => DataType::Utf8,
        };
        fields.push(id(base + k, Field::new(*n, ty, true)));
        pol.push(ColumnPolicy { bloom: *n == "user_id", bounds: *n != "user_id" });
    }
    let b2 = fields.len();
    for k in 0..(140 - b2) {
        let ty = [DataType::Utf8, DataType::Int64, DataType::Utf8, DataType::Boolean, DataType::Float64]
            [k % 5]
            .clone();
        fields.push(id(b2 + k, Field::new(format!("attribute_{k}"), ty, true)));
        pol.push(ColumnPolicy { bloom: k % 20 == 0, bounds: k % 20 != 0 });
    }
    let schema = Arc::new(Schema::new(fields));
    let mut batches = vec![];
    let mut t = 1_795_000_000_000_000i64;
    let mut made = 0;
    let mut trace = String::new();
    let mut span = String::new();
    while made < rows {
        let n = per.min(rows - made);
        made += n;
        let mut c: Vec<Vec<String>> = vec![vec![]; 20];
        let mut et = vec![];
        let mut ints = vec![vec![]; 6];
        let mut bl = vec![];
        let mut du = vec![];
        let rt = t + 50_000;
        for i in 0..n {
            t += (r.next() % 2000) as i64;
            et.push(t);
            if i % 3 == 0 {
                trace = hex(&mut r, 32);
                span = hex(&mut r, 16);
            }
            let u = (r.next() % 5000) as usize;
            let nm = (r.next() % 90) as usize * (r.next() % 90) as usize / 90;
            let org = u % 400;
            c[0].push(hex(&mut r, 32));
            c[1].push(names[nm].clone());
            c[2].push("product".into());
            c[3].push("flagsmith-api".into());
            c[4].push("2.164.0".into());
            c[5].push("flagsmith.events".into());
            c[6].push("INFO".into());
            c[7].push(trace.clone());
            c[8].push(span.clone());
            c[9].push("granted".into());
            c[10].push("3f9a2c1b7d20".into());
            c[11].push(users[u].clone());
            c[12].push(["ui", "api", "terraform"][nm % 3].into());
            c[13].push(["en-GB", "fr-FR", "de-DE", "es-ES"][u % 4].into());
            c[14].push(["free", "startup", "enterprise"][org % 3].into());
            ints[0].push(org as i64);
            ints[1].push((org * 3 + u % 3) as i64);
            ints[2].push((org * 9 + u % 9) as i64);
            ints[3].push((r.next() % 20000) as i64);
            ints[4].push((r.next() % 300000) as i64);
            ints[5].push((r.next() % 12) as i64);
            bl.push(r.next() % 2 == 0);
            du.push((r.next() % 100000) as f64 / 1000.0);
        }
        let s = |v: &Vec<String>| -> ArrayRef { Arc::new(StringArray::from_iter_values(v.iter())) };
        let ts = |v: Vec<i64>| -> ArrayRef {
            Arc::new(TimestampMicrosecondArray::from(v).with_timezone("+00:00"))
        };
        let mut cols: Vec<(&str, ArrayRef)> = vec![
            ("event_id", s(&c[0])),
            ("event_name", s(&c[1])),
            ("category", s(&c[2])),
            ("event_time", ts(et)),
            ("received_time", ts(vec![rt; n])),
            ("service_name", s(&c[3])),
            ("service_version", s(&c[4])),
            ("scope_name", s(&c[5])),
            ("severity", s(&c[6])),
            ("trace_id", s(&c[7])),
            ("span_id", s(&c[8])),
            ("consent", s(&c[9])),
            ("policy_version", s(&c[10])),
            ("user_id", s(&c[11])),
            ("source", s(&c[12])),
            ("locale", s(&c[13])),
            ("plan", s(&c[14])),
        ];
        for (k, v) in ints.into_iter().enumerate() {
            cols.push((
                [
                    "organisation_id",
                    "project_id",
                    "environment_id",
                    "feature_id",
                    "change_request_id",
                    "segment_count",
                ][k],
                Arc::new(Int64Array::from(v)),
            ));
        }
        cols.push(("flag_enabled", Arc::new(BooleanArray::from(bl))));
        cols.push(("duration", Arc::new(Float64Array::from(du))));
        let sch = Arc::new(Schema::new(
            cols.iter()
                .map(|(n, _)| schema.field_with_name(n).unwrap().clone().with_metadata(HashMap::new()))
                .collect::<Vec<_>>(),
        ));
        batches.push(RecordBatch::try_new(sch, cols.into_iter().map(|(_, a)| a).collect()).unwrap());
    }
    (batches, schema, pol)
}

fn cpu() -> f64 {
    let s = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    s.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}
#[test]
#[ignore]
fn measure() {
    let rows = 200_000;
    let (batches, schema, pol) = load(rows, 512);
    let t = |sc: Arc<Schema>, po: Vec<ColumnPolicy>| FileTarget {
        schema: sc,
        policies: po,
        iceberg_schema: "{}".into(),
        store: Arc::new(InMemory::new()),
        directory: Path::from("data"),
        location: "memory:///data".into(),
        file_prefix: "c".into(),
    };
    let run = |what: &str, target: &FileTarget| {
        let mut best = f64::MAX;
        let mut out = None;
        let (mut bs, mut be) = (0., 0.);
        for _ in 0..3 {
            let t0 = cpu();
            let s = super::super::layout::SortedRows::of(&batches).unwrap();
            let t1 = cpu();
            let f = super::super::encode::encode(target, &batches, s.day(0).unwrap().1).unwrap();
            let t2 = cpu();
            let e = t2 - t0;
            if e < best {
                best = e;
                bs = t1 - t0;
                be = t2 - t1;
            }
            out = Some(f);
        }
        let f = out.unwrap();
        let n = f.rows as f64;
        println!(
            "{what}: sort {:.3} encode {:.3} us, {:.2} B/event",
            bs * 1e6 / n,
            be * 1e6 / n,
            f.bytes.len() as f64 / n
        );
        f
    };
    println!(
        "input {} B/row",
        batches
            .iter()
            .map(|b| b.columns().iter().map(|c| c.to_data().get_slice_memory_size().unwrap()).sum::<usize>())
            .sum::<usize>()
            / rows
    );
    let f = run("base", &t(schema.clone(), pol.clone()));
    std::fs::write("/tmp/base.parquet", &f.bytes).unwrap();
    run("no bloom", &t(schema.clone(), pol.iter().map(|p| ColumnPolicy { bloom: false, ..*p }).collect()));
    run(
        "25 columns",
        &t(Arc::new(Schema::new(schema.fields().iter().take(25).cloned().collect::<Vec<_>>())), pol.clone()),
    );
    if std::env::var("COLS").is_ok() {
        for k in 0..26 {
            run(
                schema.field(k).name(),
                &t(Arc::new(Schema::new(vec![schema.fields()[k].clone()])), vec![pol[k]]),
            );
            let sch = Schema::new(vec![schema.fields()[k].clone()]);
            let s = super::super::layout::SortedRows::of(&batches).unwrap();
            let src = super::super::layout::ColumnSources::find(sch.field(0), &batches).unwrap();
            let t0 = cpu();
            let g = src.gather(s.day(0).unwrap().1).unwrap();
            println!("   gather {:.3}", (cpu() - t0) * 1e6 / rows as f64);
            drop(g);
        }
    }
}
