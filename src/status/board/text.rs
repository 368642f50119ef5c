//! Text in words of shared memory, and texts that are cut to a length.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes of a word.
pub const BYTES: usize = size_of::<u64>();

/// Marks the place where a text is cut.
const CUT: &str = "…";

/// Returns `text`, without a part in its middle if it has more than `limit` bytes.
pub fn cut_middle(text: &str, limit: usize) -> Cow<'_, str> {
    if text.len() <= limit {
        return text.into();
    }
    let kept = limit.saturating_sub(CUT.len());
    let is_boundary = |index: &usize| text.is_char_boundary(*index);
    let start = (0..=kept / 2).rev().find(is_boundary).unwrap_or_default();
    let end = (text.len() - (kept - kept / 2)..=text.len()).find(is_boundary).unwrap_or(text.len());
    let cut = format!("{}{CUT}{}", &text[..start], &text[end..]);
    if cut.len() <= limit { cut.into() } else { "".into() }
}

/// Writes bytes to words; those that there is no room for are left out.
pub fn write(words: &[AtomicU64], bytes: &[u8]) {
    for (word, chunk) in words.iter().zip(bytes.chunks(BYTES)) {
        let mut value = [0; BYTES];
        value[..chunk.len()].copy_from_slice(chunk);
        word.store(u64::from_ne_bytes(value), Relaxed);
    }
}

/// Returns the first `length` bytes of words, or all if there are fewer.
pub fn read(words: &[u64], length: u64) -> Vec<u8> {
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(words.len() * BYTES);
    words.iter().flat_map(|word| word.to_ne_bytes()).take(length).collect()
}

/// Returns a hash of bytes that is the same in each process, never 0 (FNV-1a).
pub fn hash(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(FNV_START, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME));
    hash.max(1)
}

/// Returns a hash of words, never 0.
pub fn hash_words(words: impl IntoIterator<Item = u64>) -> u64 {
    let hash = words.into_iter().fold(FNV_START, |hash, word| {
        // The product moves bits to the left only.
        (hash ^ word).wrapping_mul(FNV_PRIME).rotate_left(29)
    });
    hash.max(1)
}

const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_in_its_middle() {
        assert_eq!(cut_middle("short", 5), "short");
        assert_eq!(cut_middle("0123456789", 7), "01…89");
        for limit in 0..60 {
            for text in ["", "ä", "0123456789ääääääääääääääääääääääääää9876543210", "🙂🙂🙂🙂🙂🙂🙂🙂"]
            {
                let cut = cut_middle(text, limit);
                assert!(cut.len() <= limit, "{cut:?} {limit}");
                assert!(cut == text || text.len() > limit);
            }
        }
    }

    #[test]
    fn text_goes_through_words() {
        let words: Vec<_> = (0..3).map(|_| AtomicU64::new(u64::MAX)).collect();
        let values = || words.iter().map(|word| word.load(Relaxed)).collect::<Vec<_>>();
        for text in ["", "a", "12345678", "123456789", "äöü", "123456789012345678901234"] {
            write(&words, text.as_bytes());
            assert_eq!(read(&values(), text.len() as u64), text.as_bytes());
        }
        write(&words, &[b'x'; 100]);
        assert_eq!(read(&values(), u64::MAX), [b'x'; 24]);
    }

    #[test]
    fn hashes_differ() {
        assert_ne!(hash(b"a"), hash(b"b"));
        assert_ne!(hash_words([1, 2]), hash_words([2, 1]));
        assert_ne!(hash_words([1 << 63]), hash_words([0]));
        assert_ne!(hash(b""), 0);
    }
}
