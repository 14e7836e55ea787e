//! Content that is not understood.

use crate::packets::{Say, Script, c, s};

pub fn scripts() -> Vec<Script> {
    vec![
        Script {
            name: "turns of an unknown protocol",
            opened: false,
            says: vec![
                c([0xff, 1, 2]),
                s([9; 10]),
                s([9; 10]),
                c([0xff, 2]),
                c([0xff, 3]),
                s([9; 4]),
                Say::Gap,
                c([0xff]),
                Say::ClientEnds,
                Say::ServerEnds,
            ],
            calls: "
                opaque execute [opaque 9] 100-300 b1 3>20 unknown
                opaque execute [opaque 9] 400-600 b2 4>4 unknown
            ",
        },
        Script {
            name: "TLS 1.2 and a goodbye",
            opened: true,
            says: vec![
                c([0x16, 3, 1, 0, 2, 1, 0]),
                s([0x16, 3, 3, 0, 1, 2]),
                c([0x16, 3, 3, 0, 1, 16, 0x14, 3, 3, 0, 1, 1, 0x16, 3, 3, 0, 1, 9]),
                s([0x14, 3, 3, 0, 1, 1]),
                c([0x17, 3, 3, 0, 1, 7]),
                s([0x17, 3, 3, 0, 1, 7]),
                c([0x15, 3, 3, 0, 1, 0]),
                Say::ClientEnds,
                Say::ServerEnds,
            ],
            calls: "
                tls connect [tcp connect] 10-15 b0 0>0
                tls connect [tls handshake] 100-400 b1 25>12
                tls execute [tls 9] 500-600 b2 6>6 unknown
            ",
        },
    ]
}
