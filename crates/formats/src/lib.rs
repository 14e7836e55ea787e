//! Foreign bytes to evidence and back: curl command lines, HAR, OTLP. Pure, portable, fuzzed
