//! Reads the protobuf encoding in place: a message is its bytes, a field is a slice of them.
//! (<https://protobuf.dev/programming-guides/encoding/>)

/// What can be wrong with encoded bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    #[error("the message ends inside a field")]
    Truncated,
    #[error("a varint is longer than ten bytes")]
    LongVarint,
    #[error("a field has an impossible tag")]
    BadTag,
    #[error("a string is not UTF-8")]
    NotUtf8,
    #[error("messages are nested too deeply")]
    TooDeep,
    #[error("a well-known type holds a value out of its range")]
    OutOfRange,
    #[error("an embedded message cannot be rendered")]
    Opaque,
}

/// The encoded value of one field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Raw<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

const GROUP_START: u64 = 3;
const GROUP_END: u64 = 4;

/// Walks over the fields of one encoded message.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Starts at a byte offset that [`Fields::offset`] gave for the same bytes.
    pub(crate) fn starting_at(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    /// Where the next field begins.
    pub(crate) fn offset(&self) -> usize {
        self.at
    }

    /// The next field's number and value. Groups, which proto3 does not have, are skipped.
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Raw<'a>)>, WireError> {
        while let Some((number, wire_type)) = self.tag()? {
            match wire_type {
                GROUP_START => self.skip_group(number)?,
                wire_type => return Ok(Some((number, self.value(wire_type)?))),
            }
        }
        Ok(None)
    }

    /// The next varint, for packed fields and tags.
    pub(crate) fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or(WireError::Truncated)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << (shift & 63);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError::LongVarint)
    }

    /// The next `N` bytes, for packed fixed-width fields.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        self.take(N)?.try_into().map_err(|_| WireError::Truncated)
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    fn tag(&mut self) -> Result<Option<(u32, u64)>, WireError> {
        if self.is_at_end() {
            return Ok(None);
        }
        let tag = self.varint()?;
        match u32::try_from(tag >> 3) {
            Ok(number) if number > 0 => Ok(Some((number, tag & 7))),
            _ => Err(WireError::BadTag),
        }
    }

    fn value(&mut self, wire_type: u64) -> Result<Raw<'a>, WireError> {
        Ok(match wire_type {
            0 => Raw::Varint(self.varint()?),
            1 => Raw::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| WireError::Truncated)?;
                Raw::Bytes(self.take(len)?)
            }
            5 => Raw::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(WireError::BadTag),
        })
    }

    fn skip_group(&mut self, number: u32) -> Result<(), WireError> {
        let mut open = vec![number];
        while let Some(innermost) = open.last() {
            match self.tag()?.ok_or(WireError::Truncated)? {
                (number, GROUP_START) => open.push(number),
                (number, GROUP_END) if number == *innermost => {
                    open.pop();
                }
                (_, wire_type) => {
                    self.value(wire_type)?;
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let end = self.at.checked_add(len).ok_or(WireError::Truncated)?;
        let slice = self.bytes.get(self.at..end).ok_or(WireError::Truncated)?;
        self.at = end;
        Ok(slice)
    }
}
