//! SPDY/3.1 frames, as much of them as a client of a CRI streaming server needs.
//!
//! Header blocks travel in one zlib stream per direction. What we write is zlib with stored blocks only: valid for every
//! inflater and free of a compressor. What we read is never inflated: the replies of a streaming server carry no
//! headers that matter, and a zlib stream that nobody continues needs no state.

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

const VERSION: u16 = 3;
const FIN: u8 = 1;
/// Of one frame that is read: streaming servers send at most 32 KiB of data.
const LONGEST_FRAME: usize = 4 << 20;

/// What a frame can carry at most: its length has 24 bits.
pub const MOST_DATA: usize = 1 << 16;

/// A frame as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    SynStream {
        stream: u32,
        last: bool,
        block: Bytes,
    },
    SynReply {
        stream: u32,
        last: bool,
    },
    Reset {
        stream: u32,
        status: u32,
    },
    Ping(u32),
    GoAway,
    /// Settings, window updates: nothing depends on them.
    Ignored,
    Headers {
        stream: u32,
        last: bool,
    },
    Data {
        stream: u32,
        last: bool,
        data: Bytes,
    },
}

impl Frame {
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Frame::SynStream { stream, last, block } => {
                control(out, 1, u8::from(*last) * FIN, 10 + block.len());
                out.put_u32(*stream);
                out.put_u32(0);
                out.put_u16(0);
                out.put_slice(block);
            }
            Frame::SynReply { stream, last } => {
                control(out, 2, u8::from(*last) * FIN, 4);
                out.put_u32(*stream);
            }
            Frame::Reset { stream, status } => {
                control(out, 3, 0, 8);
                out.put_u32(*stream);
                out.put_u32(*status);
            }
            Frame::Ping(id) => {
                control(out, 6, 0, 4);
                out.put_u32(*id);
            }
            Frame::GoAway => {
                control(out, 7, 0, 8);
                out.put_u32(0);
                out.put_u32(0);
            }
            Frame::Headers { stream, last } => {
                control(out, 8, u8::from(*last) * FIN, 4);
                out.put_u32(*stream);
            }
            Frame::Data { stream, last, data } => {
                out.put_u32(*stream);
                out.put_u32(u32::from(u8::from(*last) * FIN) << 24 | data.len() as u32);
                out.put_slice(data);
            }
            Frame::Ignored => {}
        }
    }

    /// None at the end of the connection, between frames.
    pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Option<Self>> {
        let mut head = [0; 8];
        if from.read(&mut head[..1]).await? == 0 {
            return Ok(None);
        }
        from.read_exact(&mut head[1..]).await?;
        let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let second = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        let (flags, length) = ((second >> 24) as u8, (second & 0x00ff_ffff) as usize);
        if length > LONGEST_FRAME {
            return Err(std::io::Error::other("a SPDY frame is too long"));
        }
        let mut payload = vec![0; length];
        from.read_exact(&mut payload).await?;
        let payload = Bytes::from(payload);
        let last = flags & FIN != 0;
        if first & 0x8000_0000 == 0 {
            return Ok(Some(Frame::Data { stream: first, last, data: payload }));
        }
        control_frame((first & 0xffff) as u16, last, &payload).map(Some)
    }
}

fn control(out: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32(u32::from(flags) << 24 | length as u32);
}

fn control_frame(kind: u16, last: bool, payload: &Bytes) -> std::io::Result<Frame> {
    let word = |at: usize| {
        let bytes = payload.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
        bytes.ok_or_else(|| std::io::Error::other("a SPDY frame is too short"))
    };
    let id = || word(0).map(|id| id & 0x7fff_ffff);
    Ok(match kind {
        1 if payload.len() < 10 => return Err(std::io::Error::other("a SPDY frame is too short")),
        1 => Frame::SynStream { stream: id()?, last, block: payload.slice(10..) },
        2 => Frame::SynReply { stream: id()?, last },
        3 => Frame::Reset { stream: id()?, status: word(4)? },
        6 => Frame::Ping(word(0)?),
        7 => Frame::GoAway,
        8 => Frame::Headers { stream: id()?, last },
        _ => Frame::Ignored,
    })
}

/// The one zlib stream of header blocks that we send.
#[derive(Debug, Default)]
pub struct HeaderBlocks {
    begun: bool,
}

impl HeaderBlocks {
    /// A block of these headers; names in lower case.
    pub fn write(&mut self, headers: &[(&str, &str)]) -> Bytes {
        let mut plain = BytesMut::new();
        plain.put_u32(headers.len() as u32);
        for (name, value) in headers {
            for text in [name, value] {
                plain.put_u32(text.len() as u32);
                plain.put_slice(text.as_bytes());
            }
        }
        let mut out = BytesMut::new();
        if !self.begun {
            // Deflate with a window of 32 KiB, no dictionary needed.
            out.put_slice(&[0x78, 0x01]);
            self.begun = true;
        }
        for part in plain.chunks(usize::from(u16::MAX)) {
            stored(&mut out, part);
        }
        // Tells the inflater to hand over what it has.
        stored(&mut out, &[]);
        out.freeze()
    }
}

/// A deflate block that is stored, not the last one.
fn stored(out: &mut BytesMut, part: &[u8]) {
    let length = part.len() as u16;
    out.put_u8(0);
    out.put_u16_le(length);
    out.put_u16_le(!length);
    out.put_slice(part);
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Takes apart what `HeaderBlocks` writes.
    pub fn read_block(mut block: &[u8]) -> Vec<(String, String)> {
        if block.starts_with(&[0x78, 0x01]) {
            block = &block[2..];
        }
        let mut plain = Vec::new();
        while let [0, low, high, _, _, rest @ ..] = block {
            let length = usize::from(u16::from_le_bytes([*low, *high]));
            plain.extend_from_slice(&rest[..length]);
            block = &rest[length..];
        }
        assert!(block.is_empty());
        let mut plain = &plain[..];
        let word = |plain: &mut &[u8]| {
            let (head, rest) = plain.split_at(4);
            *plain = rest;
            u32::from_be_bytes(head.try_into().unwrap()) as usize
        };
        let count = word(&mut plain);
        let text = |plain: &mut &[u8]| {
            let length = word(plain);
            let (text, rest) = plain.split_at(length);
            *plain = rest;
            String::from_utf8(text.to_vec()).unwrap()
        };
        (0..count).map(|_| (text(&mut plain), text(&mut plain))).collect()
    }

    #[tokio::test]
    async fn frames_survive_the_wire() {
        let mut blocks = HeaderBlocks::default();
        let frames = [
            Frame::SynStream { stream: 1, last: false, block: blocks.write(&[("streamtype", "error")]) },
            Frame::SynStream { stream: 3, last: true, block: blocks.write(&[]) },
            Frame::SynReply { stream: 3, last: true },
            Frame::Reset { stream: 5, status: 5 },
            Frame::Ping(2),
            Frame::GoAway,
            Frame::Headers { stream: 7, last: false },
            Frame::Data { stream: 9, last: true, data: Bytes::from_static(b"hello") },
            Frame::Data { stream: 9, last: false, data: Bytes::new() },
        ];
        let mut wire = BytesMut::new();
        frames.iter().for_each(|frame| frame.encode(&mut wire));
        let mut wire = &wire[..];
        for frame in frames {
            assert_eq!(Frame::read(&mut wire).await.unwrap(), Some(frame));
        }
        assert_eq!(Frame::read(&mut wire).await.unwrap(), None);
    }

    #[test]
    fn header_blocks_are_one_zlib_stream() {
        let mut blocks = HeaderBlocks::default();
        let (first, second) = (blocks.write(&[("streamtype", "stdin")]), blocks.write(&[("a", "b"), ("c", "")]));
        assert!(first.starts_with(&[0x78, 0x01]) && !second.starts_with(&[0x78]));
        assert_eq!(u16::from_be_bytes([0x78, 0x01]) % 31, 0, "a zlib header's check bits");
        assert_eq!(read_block(&first), [("streamtype".into(), "stdin".into())]);
        assert_eq!(read_block(&second), [("a".into(), "b".into()), ("c".into(), String::new())]);
    }

    #[tokio::test]
    async fn broken_frames_are_errors_not_panics() {
        for bytes in [
            &[0x80, 3, 0, 1, 0, 0, 0, 4, 0, 0, 0, 1][..],
            &[0x80, 3, 0, 3, 0, 0, 0, 2, 0, 0],
            &[0x80, 3, 0],
            &[0, 0, 0, 1, 0, 0xff, 0xff, 0xff],
            &[0, 0, 0, 1, 0, 0, 0, 9, 1],
        ] {
            assert!(Frame::read(&mut &bytes[..]).await.is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn any_bytes_are_frames_or_an_error() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        fuzz::each("spdy", |mut bytes| {
            runtime.block_on(async { while let Ok(Some(_)) = Frame::read(&mut bytes).await {} });
        });
    }
}
