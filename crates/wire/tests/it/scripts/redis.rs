//! Redis.

use crate::packets::{Say, Script, c, s};

/// A command as an array of bulk strings.
fn cmd(words: &[&str]) -> String {
    let mut out = format!("*{}\r\n", words.len());
    for w in words {
        out.push_str(&format!("${}\r\n{w}\r\n", w.len()));
    }
    out
}

pub fn scripts() -> Vec<Script> {
    vec![plain(), nested(), subscriptions()]
}

fn plain() -> Script {
    let big = "x".repeat(3000);
    Script {
        name: "commands, a miss, a hit, an error",
        opened: true,
        says: vec![
            c(cmd(&["HELLO", "3", "AUTH", "me", "secret"])),
            s("%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n"),
            c(cmd(&["GET", "user:42:cart"])),
            s("$-1\r\n"),
            c(cmd(&["SET", "user:42:cart", &big])),
            s("+OK\r\n"),
            c(cmd(&["get", "user:42:cart"])),
            s(format!("${}\r\n{big}\r\n", big.len())),
            c(cmd(&["LPUSH", "user:42:cart", "v"])),
            s("-WRONGTYPE Operation against a key holding secret\r\n"),
            c("PING\r\n"),
            s("+PONG\r\n"),
        ],
        calls: "
                redis connect [tcp connect] 10-15 b0 0>0
                redis connect [HELLO] 100-200 b1 52>27
                redis execute [GET user:?:cart] 300-400 b2 32>5 rows=0 params=1
                redis execute [SET user:?:cart] 500-600 b3 3041>5 params=1
                redis execute [GET user:?:cart] 700-800 b4 32>3009 rows=1 params=1
                redis execute [LPUSH user:?:cart] 900-1000 b5 41>51 params=1 error=WRONGTYPE
                redis session [PING] 1100-1200 b6 6>7
            ",
    }
}

fn nested() -> Script {
    Script {
        name: "pipeline, transaction, lists and maps, scripts",
        opened: false,
        says: vec![
            c([cmd(&["GET", "a"]), cmd(&["MGET", "b:1", "b:2", "b:3"])].concat()),
            s("$1\r\n1\r\n*3\r\n$1\r\n1\r\n$-1\r\n$1\r\n2\r\n"),
            c([cmd(&["MULTI"]), cmd(&["INCR", "n"]), cmd(&["EXEC"])].concat()),
            s("+OK\r\n+QUEUED\r\n*1\r\n:7\r\n"),
            c(cmd(&["HGETALL", "h"])),
            s("*4\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$1\r\n2\r\n"),
            c(cmd(&["HGETALL", "h"])),
            s("|1\r\n+ttl\r\n:3600\r\n%1\r\n$1\r\na\r\n*2\r\n:1\r\n_\r\n"),
            c(cmd(&["EVALSHA", "9f86d081884c7d659a2feaa0c55ad015", "1", "k:1", "arg"])),
            s("!9\r\nNOSCRIPT!\r\n"),
            c(cmd(&["DEL", "k:1", "k:2"])),
            s(":2\r\n"),
            c(cmd(&["INCR", "n"])),
            s(":1234\r\n"),
        ],
        calls: "
                redis execute [GET a] 100-200 b1 20>7 rows=1 params=1
                redis execute [MGET b:?] 200-200 b1 41>23 rows=2 params=3
                redis session [MULTI] 300-400 b2 15>5
                redis execute [INCR n] 400-400 b2 21>9 params=1
                redis execute [EXEC] 400-400 b2 14>8 rows=1
                redis execute [HGETALL h] 500-600 b3 24>32 rows=2 params=1
                redis execute [HGETALL h] 700-800 b4 24>39 rows=1 params=1
                redis execute [EVALSHA k:?] 900-1000 b5 81>15 params=1 error=NOSCRIPT
                redis execute [DEL k:?] 1100-1200 b6 31>4 rows=2 params=2
                redis execute [INCR n] 1300-1400 b7 21>7 params=1
            ",
    }
}

fn subscriptions() -> Script {
    Script {
        name: "subscriptions of both protocol versions, and replies switched off",
        opened: false,
        says: vec![
            c(cmd(&["SUBSCRIBE", "news", "more"])),
            s("*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n"),
            s("$4\r\nmore\r\n:2\r\n"),
            s("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$6\r\nsecret\r\n"),
            s(">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nk:1\r\n"),
            c(cmd(&["CLIENT", "REPLY", "SKIP"])),
            c(cmd(&["SET", "k", "v"])),
            c(cmd(&["PING"])),
            s("+PONG\r\n"),
            Say::Gap,
        ],
        calls: "
                redis session [SUBSCRIBE news] 100-300 b1 39>66 params=2
                redis push [push message] 400-400 b1 0>39
                redis push [push invalidate] 500-500 b1 0>34
                redis session [CLIENT REPLY] 600-600 b2 37>0
                redis execute [SET k] 700-700 b3 27>0 params=1
                redis session [PING] 800-900 b4 14>7
            ",
    }
}
