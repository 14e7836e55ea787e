//! HTTP/1.1.

use crate::packets::{Say, Script, c, s};

pub fn scripts() -> Vec<Script> {
    vec![
        Script {
            name: "length, chunks with trailer, HEAD, 204, 304, 100",
            opened: true,
            says: vec![
                c("GET /orders/42?token=secret HTTP/1.1\r\nHost: API.internal:8080\r\n\r\n"),
                s("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"),
                s("llo"),
                c(
                    "POST /v1/items HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n",
                ),
                s("HTTP/1.1 100 Continue\r\n\r\n"),
                c("body"),
                s(
                    "HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nX: y\r\n",
                ),
                s("\r\n"),
                c("HEAD /a HTTP/1.1\r\nHost: a\r\n\r\n"),
                s("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"),
                c(
                    "PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
                ),
                s("HTTP/1.1 204 No Content\r\n\r\n"),
                c("GET /a HTTP/1.1\r\nHost: a\r\n\r\n"),
                s("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"),
            ],
            calls: "
                http connect [tcp connect] 10-15 b0 0>0
                http execute [GET api.internal:8080/orders/??token=?] 100-300 b1 65>43
                http execute [POST a/v1/items] 400-800 b2 81>97 error=503
                http execute [HEAD a/a] 900-1000 b3 29>40
                http execute [PUT a/a] 1100-1200 b4 67>27
                http execute [GET a/a] 1300-1400 b5 28>48
            ",
        },
        Script {
            name: "pipelined, then up to the end of the connection",
            opened: false,
            says: vec![
                c("GET /a HTTP/1.1\r\n\r\nGET /b/7 HTTP/1.1\r\n\r\n"),
                s("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"),
                s("HTTP/1.1 200 OK\r\n\r\nfirst"),
                s("last"),
                Say::ServerEnds,
                Say::ClientEnds,
            ],
            calls: "
                http execute [GET 127.0.0.1:9/a] 100-200 b1 19>39
                http execute [GET 127.0.0.1:9/b/?] 200-500 b1 21>28
            ",
        },
        Script {
            name: "upgrade: what follows is not HTTP",
            opened: false,
            says: vec![
                c("GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n"),
                s("HTTP/1.1 101 Switching Protocols\r\n\r\n\x01hi"),
                c("\x02yo"),
                s("\x03ho"),
                Say::Gap,
            ],
            calls: "
                http execute [GET a/ws] 100-200 b1 49>36
                opaque push [opaque 9] 200-200 b1 0>3 unknown
                opaque execute [opaque 9] 300-400 b2 3>3 unknown
            ",
        },
    ]
}
