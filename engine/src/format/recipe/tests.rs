use super::*;
use crate::limits::{MIB, WINDOW_LEN_MIN};

const WINDOW: u64 = WINDOW_LEN_MIN;

fn chunk(offset: u32, len: u32) -> LeafChunk {
    let [b0, b1, ..] = offset.to_le_bytes();
    let id = ChunkId::from_bytes([b0 ^ b1; 32]);
    LeafChunk { offset, len, id }
}

fn leaf(chunks: &[LeafChunk]) -> Node {
    let chunks = chunks.to_vec();
    Node::Leaf(Leaf { chunks })
}

fn child(slot: u8, data_bytes: u64, chunk_count: u64) -> Child {
    Child {
        slot,
        id: NodeId::from_bytes([slot; 32]),
        data_bytes,
        chunk_count,
    }
}

fn inner(level: u8, children: &[Child]) -> Node {
    let children = children.to_vec();
    Node::Inner(Inner { level, children })
}

fn samples() -> Vec<Node> {
    let full: Vec<Child> = (0..=255).map(|slot| child(slot, 9, 2)).collect();
    let last = u32::try_from(WINDOW).expect("a window is short") - 1;
    vec![
        leaf(&[]),
        leaf(&[chunk(0, 1)]),
        leaf(&[
            chunk(0, 65_536),
            chunk(65_536, 1),
            chunk(last, CHUNK_LEN_MAX),
        ]),
        inner(1, &[child(0, WINDOW, 3)]),
        inner(4, &[child(7, 10, 10), child(255, 1 << 45, 5)]),
        inner(2, &full),
    ]
}

#[test]
fn nodes_round_trip() -> Result<(), FormatError> {
    for node in samples() {
        assert_eq!(Node::decode(&node.encode(WINDOW)?, WINDOW)?, node);
    }
    assert_eq!(leaf(&[]).encode(WINDOW)?, EMPTY_LEAF);
    Ok(())
}

/// Whatever decodes encodes to the same bytes, also where bits were changed.
#[test]
fn there_is_one_encoding_of_each_node() -> Result<(), FormatError> {
    for node in samples() {
        let bytes = node.encode(WINDOW)?;
        for bit in 0..bytes.len() * 8 {
            let mut other = bytes.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            if let Ok(decoded) = Node::decode(&other, WINDOW) {
                assert_ne!(decoded, node, "bit {bit}");
                assert_eq!(decoded.encode(WINDOW)?, other, "bit {bit}");
            }
        }
        for len in 0..bytes.len() {
            assert!(Node::decode(&bytes[..len], WINDOW).is_err(), "{len} bytes");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(Node::decode(&longer, WINDOW).is_err());
    }
    Ok(())
}

#[test]
fn leaves_that_break_a_rule_are_refused() {
    let past_window = u32::try_from(WINDOW).expect("a window is short");
    let crowded: Vec<_> = (0..8193).map(|offset| chunk(offset, 1)).collect();
    for chunks in [
        &[chunk(0, 0)][..],
        &[chunk(0, CHUNK_LEN_MAX + 1)],
        &[chunk(past_window, 1)],
        &[chunk(10, 1), chunk(10, 1)],
        &[chunk(10, 1), chunk(9, 1)],
        &[chunk(10, 5), chunk(14, 1)],
        &crowded,
    ] {
        assert!(leaf(chunks).encode(WINDOW).is_err(), "{:?}", chunks.first());
    }
    assert!(leaf(&crowded[..8192]).encode(WINDOW).is_ok());
    let wide = leaf(&[chunk(past_window, 1)]);
    assert!(wide.encode(2 * WINDOW).is_ok());
}

#[test]
fn inner_nodes_that_break_a_rule_are_refused() {
    for node in [
        inner(1, &[]),
        inner(0, &[child(0, 1, 1)]),
        inner(5, &[child(0, 1, 1)]),
        inner(1, &[child(1, 1, 1), child(1, 1, 1)]),
        inner(1, &[child(2, 1, 1), child(1, 1, 1)]),
        inner(1, &[child(0, 0, 1)]),
        inner(1, &[child(0, 1, 0)]),
        inner(1, &[child(0, 1, 2)]),
        inner(1, &[child(0, WINDOW + 4 * MIB + 1, 2)]),
        inner(2, &[child(0, u64::MAX, 2)]),
    ] {
        assert!(node.encode(WINDOW).is_err(), "{node:?}");
    }
}

/// Bytes that the encoder would never write, made by hand.
#[test]
fn hostile_heads_are_refused_without_allocating() {
    for head in [
        [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
        [1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
        [1, 0, 0, 0, 0x01, 0x01, 0, 0],
        [1, 0, 0, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0, 0, 0],
        [5, 0, 0, 0, 1, 0, 0, 0],
    ] {
        assert!(Node::decode(&head, WINDOW).is_err(), "{head:?}");
    }
    assert!(Node::decode(&vec![0; NODE_LEN_MAX + 1], WINDOW).is_err());
}
