//! The fields of a TLS message in plaintext (RFC 8446 section 3), read from what a peer sent. For
//! whoever looks into a handshake without being part of it.

/// Bytes that are read from the front, big-endian; every reading is `None` where they end too soon.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    /// The next `length` bytes.
    pub fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number of one byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    /// A number of two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.take(2)
            .map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A number of three bytes.
    pub fn u24(&mut self) -> Option<usize> {
        self.take(3).map(|bytes| {
            usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2])
        })
    }

    /// A vector whose length is one byte.
    pub fn vector8(&mut self) -> Option<Self> {
        let length = self.u8()?;
        self.take(usize::from(length)).map(Fields)
    }

    /// A vector whose length is two bytes.
    pub fn vector16(&mut self) -> Option<Self> {
        let length = self.u16()?;
        self.take(usize::from(length)).map(Fields)
    }

    /// Of these extensions (RFC 8446 section 4.2), the value of one, if it is among them.
    pub fn extension(mut self, wanted: u16) -> Option<Option<Self>> {
        while let Some(kind) = self.u16() {
            let value = self.vector16()?;
            if kind == wanted {
                return Some(Some(value));
            }
        }
        Some(None)
    }
}
