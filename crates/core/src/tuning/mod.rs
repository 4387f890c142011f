//! Advice: which settings would suit the machine and the work better. Nothing here changes anything.

pub mod postgres;
