//! `doctor`: what can be observed here.

use super::Format;
use super::exit::ExitStatus;
use super::printer::Printer;
use anyhow::Result;
use clap::Args;

#[derive(Args)]
pub(super) struct DoctorArgs {
    /// URL of the service
    url: String,
    /// Root process of the service, when it cannot be found by its port
    #[arg(long, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(1..))]
    pid: Option<i32>,
    /// Format
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

pub(super) fn run(args: &DoctorArgs, printer: Printer) -> Result<ExitStatus> {
    let endpoint = super::workload::endpoint_of_url(&args.url)?;
    super::workload::is_running(args.pid)?;
    let request = load::render(&endpoint.template, 0, &[])?;
    let checkup = ::investigate::doctor(&request.host, request.port, args.pid)?;
    let text = match args.format {
        Format::Json => {
            let value = serde_json::json!({
                "schema": "perfwright/doctor/1",
                "level": checkup.level,
                "service": checkup.service,
                "coverage": checkup.coverage,
            });
            format!("{}\n", serde_json::to_string_pretty(&value)?)
        }
        Format::Text | Format::Md => report::doctor(
            checkup.level,
            checkup.service.as_ref(),
            &checkup.coverage,
            printer.width(),
        ),
    };
    printer.data(&text)?;
    Ok(ExitStatus::Success)
}
