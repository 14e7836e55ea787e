//! The loop: choose an experiment, run it with the senses, judge again
