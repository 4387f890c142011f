//! Log folders: the sizes of their files. No content is read and nothing is changed.

mod name;
mod observe;

pub use observe::{Folder, observe};
