//! Games written in Lua: the scripts' contract is docs/lua.md. One VM per match, one thread at a time.

mod api;
mod budget;
mod decode;
mod encode;
mod load;
mod random;
mod script;
mod settings;
mod source;
mod vm;

#[cfg(test)]
mod tests;

pub use load::{LoadError, Manifest, load};
pub use vm::Limits;
