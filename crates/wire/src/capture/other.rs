//! Where there are no packet sockets: the same interface, which says so.

use super::{CaptureError, Config, Statistics};
use crate::segment::Segment;
use std::time::Duration;

/// A capture; cannot be opened on this platform.
#[derive(Debug)]
pub enum Capture {}

/// A capture drained by a thread; cannot exist on this platform.
#[derive(Debug)]
pub enum Background {}

impl Capture {
    /// # Errors
    /// Always [`CaptureError::Unsupported`].
    pub fn open(_config: &Config) -> Result<Capture, CaptureError> {
        Err(CaptureError::Unsupported)
    }

    /// Never called: no value exists.
    pub fn set_ports(&mut self, _ports: Option<&[u16]>) -> Result<(), CaptureError> {
        match *self {}
    }

    /// Never called: no value exists.
    pub fn drain(&mut self, _each: impl FnMut(&Segment<'_>)) {
        match *self {}
    }

    /// Never called: no value exists.
    pub fn longest_wait(&self) -> Duration {
        match *self {}
    }

    /// Never called: no value exists.
    pub fn is_filling(&self) -> bool {
        match *self {}
    }

    /// Never called: no value exists.
    pub fn statistics(&self) -> Statistics {
        match *self {}
    }

    /// Never called: no value exists.
    pub fn drain_in_background(
        self,
        _interval: Duration,
        _each: impl FnMut(&Segment<'_>) + Send + 'static,
    ) -> Result<Background, CaptureError> {
        match self {}
    }
}

impl Background {
    /// Never called: no value exists.
    pub fn stop(self) -> Result<Capture, CaptureError> {
        match self {}
    }
}
