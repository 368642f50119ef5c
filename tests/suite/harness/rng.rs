//! Chance that is the same in every run.

/// Numbers that follow from a seed (xorshift).
pub struct SeededRng(u64);

impl SeededRng {
    pub fn new(seed: u64) -> SeededRng {
        // Of zero nothing else would follow; neighbours are to differ at once.
        let mut rng = SeededRng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        rng.below(2);
        rng
    }

    /// A number from 0 on, below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    /// The same as a size.
    pub fn size(&mut self, end: usize) -> usize {
        self.below(end as u64) as usize
    }

    pub fn choose<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.size(choices.len())]
    }
}
