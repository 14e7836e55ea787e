//! A thread that drains a capture, for windows that move more bytes than the kernel's buffer holds.

use super::{Capture, CaptureError};
use crate::segment::Segment;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A drain that reads as much is followed by the next at once.
const BURST_BYTES: u64 = 1 << 20;

/// A capture drained by its own thread. Dropping it stops the thread.
#[derive(Debug)]
pub struct Background {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Capture>>,
}

impl Capture {
    /// Drains every `interval` on a thread of its own, which calls `each`. It costs the machine a
    /// wake-up an interval, so windows that fit the buffer are better drained in the gap after.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn drain_in_background(
        self,
        interval: Duration,
        mut each: impl FnMut(&Segment<'_>) + Send + 'static,
    ) -> Result<Background, CaptureError> {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = stop.clone();
        let mut capture = self;
        let work = move || {
            loop {
                let last = asked.load(Ordering::Acquire);
                if last {
                    std::thread::sleep(capture.longest_wait());
                }
                let before = capture.statistics().bytes;
                capture.drain(&mut each);
                if last {
                    return capture;
                }
                // In a burst the buffer fills faster than any interval.
                if capture.statistics().bytes - before < BURST_BYTES {
                    std::thread::park_timeout(interval);
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("wire-capture".into())
            .spawn(work)
            .map_err(|source| CaptureError::System { what: "starting a thread", source })?;
        Ok(Background { stop, thread: Some(thread) })
    }
}

impl Background {
    /// Drains once more and gives the capture back.
    ///
    /// # Errors
    /// The thread panicked.
    pub fn stop(mut self) -> Result<Capture, CaptureError> {
        self.join().ok_or_else(|| CaptureError::System {
            what: "draining in the background",
            source: std::io::Error::other("the thread panicked"),
        })
    }

    fn join(&mut self) -> Option<Capture> {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.take()?;
        thread.thread().unpark();
        thread.join().ok()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Only the thread's end matters here.
        let _ = self.join();
    }
}
