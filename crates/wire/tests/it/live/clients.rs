//! What each real client sends, and what it should look like.

use super::{Wanted, wanted};
use evidence::Operation::{Execute, Prepare, Session};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};

fn failed(mut w: Wanted, error: &str) -> Wanted {
    w.error = Some(error.into());
    w
}

pub fn postgres(a: SocketAddr, marker: &str) -> Vec<Wanted> {
    let user = std::env::var("PERFWRIGHT_PG_USER").unwrap_or("postgres".into());
    let mut config = postgres::Config::new();
    config.host(&a.ip().to_string()).port(a.port()).user(&user).dbname("postgres");
    let mut c = config.connect(postgres::NoTls).unwrap();
    let series = format!("SELECT g AS {marker} FROM generate_series(1, $1::int4) g");
    let rows = c.query(&series, &[&5i32]).unwrap();
    assert_eq!(rows.len(), 5);
    c.batch_execute("BEGIN; CREATE TEMP TABLE w (id int8, name text) ON COMMIT DROP").unwrap();
    let insert = c.prepare("INSERT INTO w VALUES ($1, $2)").unwrap();
    for id in 0..3i64 {
        c.execute(&insert, &[&id, &"it's"]).unwrap();
    }
    let many = "SELECT * FROM w WHERE id IN (0, 1, 2) AND name = 'it''s' -- why";
    assert_eq!(c.simple_query(many).unwrap().iter().filter(|m| is_row(m)).count(), 3);
    let mut copy = c.copy_in("COPY w FROM STDIN").unwrap();
    copy.write_all(b"9\tx\n10\ty\n").unwrap();
    copy.finish().unwrap();
    c.batch_execute("COMMIT").unwrap();
    assert!(c.batch_execute("SELECT * FROM nope").is_err());
    drop(c);
    let series_text = format!("SELECT g AS {marker} FROM generate_series(?, $1::int4) g");
    let mut w = vec![
        wanted(Prepare, &series_text, None),
        wanted(Execute, &series_text, Some(5)),
        wanted(Session, "BEGIN", None),
        wanted(Execute, "CREATE TEMP TABLE w (id int8, name text) ON COMMIT DROP", None),
        wanted(Prepare, "INSERT INTO w VALUES ($1, $2)", None),
    ];
    w.extend((0..3).map(|_| wanted(Execute, "INSERT INTO w VALUES ($1, $2)", Some(1))));
    w.push(wanted(Execute, "SELECT * FROM w WHERE id IN (?) AND name = ?", Some(3)));
    w.push(wanted(Prepare, "COPY w FROM STDIN", None));
    w.push(wanted(Execute, "COPY w FROM STDIN", Some(2)));
    w.push(wanted(Session, "close statement", None));
    w.push(wanted(Session, "COMMIT", None));
    w.push(failed(wanted(Execute, "SELECT * FROM nope", None), "42P01"));
    w
}

fn is_row(m: &postgres::SimpleQueryMessage) -> bool {
    matches!(m, postgres::SimpleQueryMessage::Row(_))
}

pub fn mysql(a: SocketAddr, marker: &str) -> Vec<Wanted> {
    use mysql::prelude::Queryable;
    let opts = mysql::OptsBuilder::new()
        .ip_or_hostname(Some(a.ip().to_string()))
        .tcp_port(a.port())
        .user(Some(std::env::var("PERFWRIGHT_MYSQL_USER").unwrap_or("shop".into())))
        .pass(Some(std::env::var("PERFWRIGHT_MYSQL_PASSWORD").unwrap_or("shop".into())))
        .prefer_socket(false);
    let mut c = mysql::Conn::new(opts).unwrap();
    let text = format!("SELECT 7 AS {marker}, 'it\\'s' AS b");
    assert_eq!(c.query::<(u64, String), _>(&text).unwrap().len(), 1);
    let prepared = format!("SELECT ? AS {marker}, ? AS b UNION ALL SELECT 2, 'c'");
    for id in 0..3 {
        let rows: Vec<(i64, String)> = c.exec(&prepared, (id, "x")).unwrap();
        assert_eq!(rows.len(), 2);
    }
    let several: Vec<i64> = c
        .query_iter("DO 1; SELECT 5 AS a")
        .map(|mut r| {
            let mut all = Vec::new();
            while let Some(set) = r.iter() {
                all.extend(set.map(|row| mysql::from_row::<i64>(row.unwrap())));
            }
            all
        })
        .unwrap();
    assert_eq!(several, [5]);
    assert!(c.query_drop("SELECT * FROM mysql.nope_at_all").is_err());
    c.ping().unwrap();
    drop(c);
    let prepared_text = format!("SELECT ? AS {marker}, ? AS b UNION ALL SELECT ?, ?");
    let mut w = vec![
        wanted(Execute, &format!("SELECT ? AS {marker}, ? AS b"), Some(1)),
        wanted(Prepare, &prepared_text, None),
    ];
    w.extend((0..3).map(|_| wanted(Execute, &prepared_text, Some(2))));
    w.push(wanted(Execute, "DO ?", Some(0)));
    w.push(wanted(Execute, "SELECT ? AS a", Some(1)));
    // Which of the two depends on the user's rights.
    let denied = std::env::var("PERFWRIGHT_MYSQL_USER").as_deref() != Ok("root");
    let number = if denied { "1142" } else { "1146" };
    w.push(failed(wanted(Execute, "SELECT * FROM mysql.nope_at_all", None), number));
    w.push(wanted(Session, "ping", None));
    w
}

pub fn redis(a: SocketAddr, marker: &str) -> Vec<Wanted> {
    let client = redis::Client::open(format!("redis://{a}")).unwrap();
    let mut c = client.get_connection().unwrap();
    let key = |i: usize| format!("{marker}:{i}");
    let _: () = redis::cmd("SET").arg(key(1)).arg("x".repeat(100_000)).query(&mut c).unwrap();
    let got: Option<String> = redis::cmd("GET").arg(key(1)).query(&mut c).unwrap();
    assert_eq!(got.map(|g| g.len()), Some(100_000));
    let none: Option<String> = redis::cmd("GET").arg(key(2)).query(&mut c).unwrap();
    assert_eq!(none, None);
    let mut p = redis::pipe();
    (0..10).for_each(|i| {
        p.cmd("GET").arg(key(i));
    });
    let _: Vec<Option<String>> = p.query(&mut c).unwrap();
    let mut t = redis::pipe();
    t.atomic().cmd("HSET").arg(key(3)).arg("f").arg(1).cmd("DEL").arg(key(1)).arg(key(3));
    let _: (i64, i64) = t.query(&mut c).unwrap();
    assert!(redis::cmd("NOPE").query::<()>(&mut c).is_err());
    let get = format!("GET {marker}:?");
    let mut w = vec![
        wanted(Execute, &format!("SET {marker}:?"), None),
        wanted(Execute, &get, Some(1)),
        wanted(Execute, &get, Some(0)),
    ];
    w.extend((0..10).map(|i| wanted(Execute, &get, Some(u64::from(i == 1)))));
    w.push(wanted(Session, "MULTI", None));
    w.push(wanted(Execute, &format!("HSET {marker}:?"), None));
    w.push(wanted(Execute, &format!("DEL {marker}:?"), None));
    w.push(wanted(Execute, "EXEC", Some(2)));
    w.push(failed(wanted(Execute, "NOPE", None), "ERR"));
    w
}

pub fn memcached(a: SocketAddr, marker: &str) -> Vec<Wanted> {
    let mut stream = TcpStream::connect(a).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    let mut say = |text: String, until: &str| {
        stream.write_all(text.as_bytes()).unwrap();
        let mut line = String::new();
        while !line.ends_with(&format!("{until}\r\n")) {
            line.clear();
            assert!(answers.read_line(&mut line).unwrap() > 0);
        }
    };
    say(format!("set {marker}:1 0 60 5\r\nEND\r\n\r\n"), "STORED");
    // The value is itself a line that says END.
    say(format!("get {marker}:1 {marker}:2\r\n"), "END");
    say(String::new(), "END");
    say(format!("mg {marker}:1 v q\r\nmg {marker}:2 v q\r\nmn\r\n"), "MN");
    say(format!("delete {marker}:1\r\n"), "DELETED");
    let template = format!("{marker}:?");
    vec![
        wanted(Execute, &format!("set {template}"), Some(1)),
        wanted(Execute, &format!("get {template}"), Some(1)),
        wanted(Execute, &format!("mg {template}"), Some(1)),
        wanted(Execute, &format!("mg {template}"), Some(0)),
        wanted(Session, "mn", None),
        wanted(Execute, &format!("delete {template}"), Some(1)),
    ]
}
