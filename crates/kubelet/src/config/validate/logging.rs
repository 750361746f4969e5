//! The logging and tracing parts, which other components share.

use pod::quantity::Quantity;

use super::{Check, Invalid};
use crate::config::{duration::GoDuration, types::OutputRouting};

pub(super) fn check(check: &mut Check<'_>) {
    let logging = &check.config.logging;
    check.refuse_if(logging.flush_frequency <= GoDuration::default(), || {
        Invalid::new("logging.flushFrequency", logging.flush_frequency, "must be greater than zero")
    });
    let text = logging.format == "text";
    check.refuse_if(!text && logging.format != "json", || {
        Invalid::new("logging.format", &logging.format, "unsupported log format, must be \"text\" or \"json\"")
    });
    let too_high = |level: u32| i32::try_from(level).is_err();
    check.refuse_if(too_high(logging.verbosity), || {
        Invalid::new("logging.verbosity", i64::from(logging.verbosity), "must be at most 2147483647")
    });
    for (index, item) in logging.vmodule.iter().enumerate() {
        let field = format!("logging.vmodule[{index}]");
        let pattern = &item.file_pattern;
        check.refuse_if(!text, || Invalid::new(&field, pattern, "only supported for the text log format"));
        check.refuse_if(pattern.is_empty(), || Invalid::required(&field, "the file pattern must not be empty"));
        check.refuse_if(pattern.contains(['=', ',']), || {
            Invalid::new(&field, pattern, "must not contain an equal sign or comma")
        });
        check.refuse_if(too_high(item.verbosity), || {
            Invalid::new(&field, i64::from(item.verbosity), "must be at most 2147483647")
        });
    }
    routing(check, "text", &logging.options.text);
    routing(check, "json", &logging.options.json);
    tracing(check);
}

fn routing(check: &mut Check<'_>, format: &str, routing: &OutputRouting) {
    let alpha = check.on("LoggingAlphaOptions");
    check.refuse_if(routing.split_stream && !alpha, || {
        Invalid::new(format!("logging.options.{format}.splitStream"), true, "requires feature gate LoggingAlphaOptions")
    });
    let buffered = routing.info_buffer_size.parse::<Quantity>().is_ok_and(|size| !size.is_zero());
    check.refuse_if(buffered && !alpha, || {
        let field = format!("logging.options.{format}.infoBufferSize");
        Invalid::new(field, &routing.info_buffer_size, "requires feature gate LoggingAlphaOptions")
    });
}

fn tracing(check: &mut Check<'_>) {
    let Some(tracing) = &check.config.tracing else { return };
    if let Some(rate) = tracing.sampling_rate_per_million {
        check.refuse_if(!(0..=1_000_000).contains(&rate), || {
            Invalid::new("tracing.samplingRatePerMillion", rate, "must be between 0 and 1000000")
        });
    }
    if let Some(endpoint) = &tracing.endpoint {
        let scheme = endpoint.contains("//").then(|| endpoint.split_once(':').map_or("", |(scheme, _)| scheme));
        check.refuse_if(!matches!(scheme, None | Some("dns" | "unix" | "unix-abstract")), || {
            Invalid::new("tracing.endpoint", endpoint, "unsupported scheme, must be none, dns, unix or unix-abstract")
        });
    }
}
