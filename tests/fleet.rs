//! Many archives at one place: one mount shows all of them (promise O4).

// What a mount of many shows, and what it does not.
mod showing;
// `walfs status --all`.
mod telling;
// A central host, and servers that it takes in.
mod central;
