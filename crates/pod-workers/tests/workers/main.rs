//! Dispatcher and workers with all their parts, on a fake runtime and a fake API server, on a paused clock.

mod admission;
mod bed;
mod life;
mod resize;
mod trouble;
mod volumes;
