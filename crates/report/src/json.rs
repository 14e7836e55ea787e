//! The JSON contract `perfwright/report/1`.

use evidence::Report;

/// The report as pretty JSON with a final newline. Key order is that of the types, so equal
/// reports are equal bytes.
pub fn json(report: &Report) -> String {
    // Plain data with string keys always serialises; if it did not, the reader gets to see why.
    let text = serde_json::to_string_pretty(report)
        .unwrap_or_else(|e| format!("{{\"schema\":\"perfwright/report/1\",\"error\":\"{e}\"}}"));
    text + "\n"
}

/// The checked-in JSON schema of the contract.
pub fn schema() -> &'static str {
    include_str!("../schema/report-1.schema.json")
}
