use wire::capture::*;
fn main() {
    let ports: Vec<u16> = std::env::args().skip(2).map(|a| a.parse().unwrap()).collect();
    let secs: u64 = std::env::args().nth(1).unwrap().parse().unwrap();
    let mut c = Capture::open(&Config::ports(&ports)).unwrap();
    let mut d = wire::Decoder::new(evidence::Redactor::new(1), &[]);
    for _ in 0..secs * 5 {
        std::thread::sleep(std::time::Duration::from_millis(200));
        c.drain(|s| d.feed(s)).unwrap();
        d.flush();
        for c in d.take_calls() {
            println!(
                "#{} {} b{} {:?} {:?} [{}] known={} rows={:?} params={} cols={:?} err={:?} tx={} rx={} start={} dur={}us",
                c.connection,
                c.peer,
                c.batch,
                c.protocol,
                c.operation,
                c.text,
                c.text_known,
                c.rows,
                c.params.len(),
                c.columns.iter().map(|k| (k.name.clone(), k.values.len())).collect::<Vec<_>>(),
                c.error,
                c.bytes_sent,
                c.bytes_received,
                c.start.0 / 1000 % 100_000_000,
                c.duration().0 / 1000
            );
        }
    }
    println!("{:?} {:?}", d.losses(), c.statistics());
}
