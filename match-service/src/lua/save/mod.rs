//! A match's state as bytes, and back: straight from the VM, for checkpoints and moves.
//!
//! ```text
//!   snapshot = VERSION random:u64 bots state
//!   bots     = count, then for each: uuid (16 bytes), id (text)
//!   state    = value, a table
//!   value    = FALSE | TRUE | WHOLE zigzag | DOUBLE f64 | VECTOR 3×f32 | STRING text | BUFFER text | SEEN number | TABLE flags items
//!   items    = value… for the keys 1, 2, … [ PAIRS (key value)… ] END
//!   text     = length, bytes
//! ```
//! Lengths, counts and numbers are LEB128; the rest is little-endian. Tables, buffers and strings of at least [`WORTH_A_NUMBER`] bytes are numbered in
//! the order of their beginning, and named by their number the second time: a table that two places of a state share is shared again afterwards, a
//! circle is one again, and a name that every player's table has costs two bytes.
//!
//! The next release reads what this one wrote, or says that it does not: [`VERSION`] goes up with every change.

mod read;
mod write;

pub use read::read;
pub use write::Writer;

/// Of the format.
const VERSION: u8 = 1;
/// Largest saved match, bytes.
pub const MAX_SAVED: usize = 1 << 20;
/// How deep tables may nest.
const MAX_DEPTH: usize = 100;
const WORTH_A_NUMBER: usize = 3;

const END: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
const WHOLE: u8 = 3;
const DOUBLE: u8 = 4;
const VECTOR: u8 = 5;
const STRING: u8 = 6;
const BUFFER: u8 = 7;
const SEEN: u8 = 8;
const TABLE: u8 = 9;
const PAIRS: u8 = 10;

/// A table's flags.
const IS_ARRAY: u8 = 1;
const IS_FROZEN: u8 = 2;

#[cfg(test)]
mod tests;
