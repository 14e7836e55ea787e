//! The kernel's filter: TCP over IPv4 and IPv6, by ports, and every SYN. Classic BPF on the network
//! header (`SOCK_DGRAM` sockets have no link header).

use libc::sock_filter;

const LD_BYTE: u16 = 0x30;
const LD_HALF: u16 = 0x28;
const LD_WORD: u16 = 0x20;
const LD_BYTE_X: u16 = 0x50;
const LD_HALF_X: u16 = 0x48;
const LDX_HEADER: u16 = 0xb1;
const SHIFT_RIGHT: u16 = 0x74;
const EQUAL: u16 = 0x15;
const ANY_BIT: u16 = 0x45;
const JUMP: u16 = 0x05;
const RETURN: u16 = 0x06;

/// Bytes passed on of a packet: all of it.
const ALL: u32 = 0x7fff_ffff;

/// `SKF_AD_OFF + SKF_AD_IFINDEX`: the interface a packet came by.
const INTERFACE: u32 = (-0x1000i32 + 8) as u32;

/// More ports than this would exceed the kernel's 4,096 instructions.
pub(super) const PORTS_LIMIT: usize = 500;

fn op(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

fn test(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// The program. `ports`: `None` for all TCP; `except`: an interface whose packets are not wanted.
pub(super) fn program(ports: Option<&[u16]>, except: Option<u32>) -> Vec<sock_filter> {
    let ports = ports.filter(|p| p.len() <= PORTS_LIMIT);
    let v4 = block(false, ports);
    let v6 = block(true, ports);
    let mut p = Vec::new();
    if let Some(interface) = except {
        p.extend([op(LD_WORD, INTERFACE), test(EQUAL, interface, 0, 1), op(RETURN, 0)]);
    }
    p.extend([
        op(LD_BYTE, 0),
        op(SHIFT_RIGHT, 4),
        test(EQUAL, 4, 0, 1),
        op(JUMP, 3),
        test(EQUAL, 6, 0, 1),
        op(JUMP, 1 + v4.len() as u32),
        op(RETURN, 0),
    ]);
    p.extend(v4);
    p.extend(v6);
    p
}

fn block(v6: bool, ports: Option<&[u16]>) -> Vec<sock_filter> {
    let mut p = vec![op(LD_BYTE, if v6 { 6 } else { 9 }), test(EQUAL, 6, 1, 0), op(RETURN, 0)];
    if !v6 {
        // Later fragments have no TCP header.
        p.extend([op(LD_HALF, 6), test(ANY_BIT, 0x1fff, 0, 1), op(RETURN, 0), op(LDX_HEADER, 0)]);
    }
    let Some(ports) = ports else {
        p.push(op(RETURN, ALL));
        return p;
    };
    let (byte, half, base) = if v6 { (LD_BYTE, LD_HALF, 40) } else { (LD_BYTE_X, LD_HALF_X, 0) };
    p.extend([op(byte, base + 13), test(ANY_BIT, 2, 0, 1), op(RETURN, ALL)]);
    for field in [0, 2] {
        p.push(op(half, base + field));
        for port in ports {
            p.extend([test(EQUAL, u32::from(*port), 0, 1), op(RETURN, ALL)]);
        }
    }
    p.push(op(RETURN, 0));
    p
}
