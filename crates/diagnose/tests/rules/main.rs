//! Rules against recorded fixtures and against drawn, simulated services.

mod drawn;
mod fixtures;
mod sim;
