//! memcached.

use crate::packets::{Script, c, s};

pub fn scripts() -> Vec<Script> {
    vec![
        Script {
            name: "text commands",
            opened: true,
            says: vec![
                c("get user:1 user:2\r\n"),
                s("VALUE user:1 0 6\r\nEND\r\nx\r\nEND\r\n"),
                c("set user:1 0 60 5\r\nval\r\n\r\n"),
                s("STORED\r\n"),
                c("set user:3 0 0 1 noreply\r\nx\r\nget user:4\r\n"),
                s("END\r\n"),
                c("delete user:9\r\nincr n 1\r\n"),
                s("NOT_FOUND\r\n42\r\n"),
                c("stats\r\n"),
                s("STAT pid 1\r\nSTAT x 2\r\nEND\r\n"),
                c("cas a 0 0 1 9\r\nx\r\n"),
                s("SERVER_ERROR out of memory storing secret\r\n"),
                c("quit\r\n"),
            ],
            calls: "
                memcached connect [tcp connect] 10-15 b0 0>0
                memcached execute [get user:?] 100-200 b1 19>31 rows=1 params=2
                memcached execute [set user:?] 300-400 b2 26>8 rows=1 params=1
                memcached execute [set user:?] 500-500 b3 29>0 params=1
                memcached execute [get user:?] 500-600 b4 12>5 rows=0 params=1
                memcached execute [delete user:?] 700-800 b5 15>11 rows=0 params=1
                memcached execute [incr n] 800-800 b5 10>4 params=1
                memcached session [stats] 900-1000 b6 7>27
                memcached execute [cas a] 1100-1200 b7 18>43 params=1 error=SERVER_ERROR
                memcached session [quit] 1300-1300 b8 0>0
            ",
        },
        Script {
            name: "meta commands, quiet ones by opaque token and by no-op",
            opened: false,
            says: vec![
                c("ms k:1 2 T0\r\nhi\r\n"),
                s("HD\r\n"),
                c("mg k:1 v\r\n"),
                s("VA 2\r\nhi\r\n"),
                c("mg k:1 v q O1\r\nmg k:2 v q O2\r\nmg k:3 v q O3\r\nmn\r\n"),
                s("VA 2 O1\r\nhi\r\nVA 2 O3\r\nhi\r\nMN\r\n"),
                c("ms k:1 1 q\r\nx\r\nmd k:9 q\r\nmn\r\n"),
                s("MN\r\n"),
            ],
            calls: "
                memcached execute [ms k:?] 100-200 b1 17>4 rows=1 params=1
                memcached execute [mg k:?] 300-400 b2 10>10 rows=1 params=1
                memcached execute [mg k:?] 500-600 b3 15>13 rows=1 params=1
                memcached execute [mg k:?] 600-600 b3 15>9 rows=0 params=1
                memcached execute [mg k:?] 600-600 b3 15>4 rows=1 params=1
                memcached session [mn] 600-600 b3 4>4
                memcached execute [ms k:?] 700-800 b4 15>4 rows=1 params=1
                memcached execute [md k:?] 800-800 b4 10>0 rows=1 params=1
                memcached session [mn] 800-800 b4 4>0
            ",
        },
    ]
}
