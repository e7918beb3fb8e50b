//! Games written in Lua: the scripts' contract is docs/lua.md. One VM per match, one thread at a time.

mod api;
mod budget;
mod decode;
mod encode;
mod explain;
mod keys;
mod load;
#[cfg(feature = "measured")]
#[doc(hidden)]
pub mod measured;
mod modules;
mod random;
mod save;
mod script;
mod settings;
mod shelf;
mod show;
mod source;
mod vm;
mod watch;

#[cfg(test)]
mod tests;

pub use load::{LoadError, Manifest, load};
pub use shelf::Shelf;
pub use vm::Limits;
pub use watch::Watcher;
