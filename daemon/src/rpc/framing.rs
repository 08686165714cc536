//! Where the messages in a body begin, and how long they are.

use tonic::Status;

/// The bytes before a message of gRPC: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Bytes of a body of unknown length that are counted at once.
const STEP: usize = 64 << 10;

/// A message that begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Bytes that it has as it comes.
    pub length: usize,
    /// It is compressed, so that it has more than that when it is unpacked.
    pub is_compressed: bool,
}

/// How messages stand in a body.
#[derive(Debug)]
pub enum Framing {
    /// One behind the other, each after its length.
    Grpc(Message),
    /// The body is the message.
    Plain(Plain),
}

impl Framing {
    /// Goes through the next bytes; `begin` learns of each message that begins in them.
    ///
    /// # Errors
    /// Those of `begin`, and `OUT_OF_RANGE` for a plain body that is too long.
    pub fn pass(
        &mut self,
        bytes: &[u8],
        begin: impl FnMut(Begun) -> Result<(), Status>,
    ) -> Result<(), Status> {
        match self {
            Self::Grpc(message) => message.pass(bytes, begin),
            Self::Plain(plain) => plain.pass(bytes, begin),
        }
    }

    /// Whether a message has begun and not ended.
    pub fn is_open(&self) -> bool {
        match self {
            Self::Grpc(message) => message.is_open(),
            Self::Plain(_) => true,
        }
    }
}

/// Where in a plain body one stands.
#[derive(Debug)]
pub struct Plain {
    /// What the headers say of its length.
    length: Option<usize>,
    longest: usize,
    came: usize,
    counted: usize,
}

impl Plain {
    /// A body of this length, if it is known, which may have `longest` bytes.
    pub fn new(length: Option<usize>, longest: usize) -> Self {
        Self { length, longest, came: 0, counted: 0 }
    }

    fn pass(
        &mut self,
        bytes: &[u8],
        mut begin: impl FnMut(Begun) -> Result<(), Status>,
    ) -> Result<(), Status> {
        self.came += bytes.len();
        if self.came.max(self.length.unwrap_or_default()) > self.longest {
            return Err(Status::out_of_range("the body is too long"));
        }
        while self.counted < self.came {
            let length = self.length.filter(|_| self.counted == 0).unwrap_or(STEP).max(1);
            begin(Begun { length, is_compressed: false })?;
            self.counted += length;
        }
        Ok(())
    }
}

/// Where in its messages a body stands.
#[derive(Debug, Default)]
pub struct Message {
    prefix: [u8; PREFIX],
    /// Bytes of the prefix that came.
    came: usize,
    /// Bytes of the message that are to come.
    left: usize,
}

impl Message {
    fn pass(
        &mut self,
        mut bytes: &[u8],
        mut begin: impl FnMut(Begun) -> Result<(), Status>,
    ) -> Result<(), Status> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let taken = self.left.min(bytes.len());
                self.left -= taken;
                bytes = bytes.get(taken..).unwrap_or_default();
                continue;
            }
            let taken = (PREFIX - self.came).min(bytes.len());
            let (of_prefix, rest) = bytes.split_at(taken);
            for (to, from) in self.prefix.iter_mut().skip(self.came).zip(of_prefix) {
                *to = *from;
            }
            bytes = rest;
            self.came += taken;
            if self.came == PREFIX {
                let [flag, length @ ..] = self.prefix;
                self.came = 0;
                self.left = u32::from_be_bytes(length) as usize;
                begin(Begun { length: self.left, is_compressed: flag != 0 })?;
            }
        }
        Ok(())
    }

    fn is_open(&self) -> bool {
        self.came > 0 || self.left > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(framing: &mut Framing, bytes: &[u8]) -> Vec<(usize, bool)> {
        let mut begun = Vec::new();
        let pass = framing.pass(bytes, |message| {
            begun.push((message.length, message.is_compressed));
            Ok(())
        });
        pass.unwrap();
        begun
    }

    #[test]
    fn a_message_of_grpc_says_its_length_and_whether_it_is_compressed() {
        let mut framing = Framing::Grpc(Message::default());
        assert_eq!(begun(&mut framing, &[0, 0, 0, 0, 2, 7, 7, 1, 0, 0]), [(2, false)]);
        assert!(framing.is_open());
        assert_eq!(begun(&mut framing, &[0, 1, 7]), [(1, true)]);
        assert!(!framing.is_open());
    }

    #[test]
    fn a_plain_body_is_counted_once_by_its_length_or_as_it_comes() {
        let mut known = Framing::Plain(Plain::new(Some(1000), 1 << 20));
        assert_eq!(begun(&mut known, &[7; 400]), [(1000, false)]);
        assert_eq!(begun(&mut known, &[7; 600]), []);
        let mut unknown = Framing::Plain(Plain::new(None, 1 << 20));
        assert_eq!(begun(&mut unknown, &[7; 400]), [(STEP, false)]);
        assert_eq!(begun(&mut unknown, &[7; STEP]), [(STEP, false)]);
    }

    #[test]
    fn a_plain_body_that_is_too_long_is_refused_by_its_length_or_when_it_is() {
        for (length, came) in [(Some(101), 1), (None, 101)] {
            let mut framing = Framing::Plain(Plain::new(length, 100));
            let status = framing.pass(&vec![7; came], |_| Ok(())).unwrap_err();
            assert_eq!(status.code(), tonic::Code::OutOfRange);
        }
    }
}
