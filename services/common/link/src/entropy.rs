//! Where random bytes come from. The machines draw them through this trait, so that a simulation
//! replays a run from its seed; services give them the operating system's.

/// A source of random bytes.
pub trait Entropy {
    /// Fills `bytes` with random ones.
    fn fill(&mut self, bytes: &mut [u8]);
}

/// Draws an array.
pub(crate) fn draw<const N: usize>(entropy: &mut dyn Entropy) -> [u8; N] {
    let mut bytes = [0; N];
    entropy.fill(&mut bytes);
    bytes
}

/// Draws a number below `end`, or 0 where `end` is 0. The bias of the remainder (< 2⁻³² for
/// the spans used here) does not matter to jitter.
pub(crate) fn below(entropy: &mut dyn Entropy, end: u64) -> u64 {
    u64::from_le_bytes(draw(entropy))
        .checked_rem(end)
        .unwrap_or(0)
}
