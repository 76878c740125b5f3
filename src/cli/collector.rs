//! Reads what the configuration says of the collector of traces, and the files that it names.

use std::{error::Error, path::Path};

use tonic::metadata::MetadataMap;

use super::CommandError;
use crate::{
    config::Config,
    errors::with_causes,
    files,
    telemetry::{Collector, read_headers},
};

/// Most bytes of a file of certificates.
const CERTIFICATE_BYTES: u64 = 1 << 20;

/// The collector of traces, if there is one.
pub(super) fn collector(config: &Config) -> Result<Option<Collector>, CommandError> {
    let Some(traces) = &config.telemetry.traces else {
        return Ok(None);
    };
    let wrong = |key: &str, path: &Path, error: &dyn Error| {
        CommandError::invalid_data(format!("{key} {}: {}", path.display(), with_causes(error)))
    };
    let headers = match &traces.headers_file {
        Some(path) => {
            read_headers(path).map_err(|error| wrong("telemetry.otlp_headers_file", path, &error))?
        }
        None => MetadataMap::new(),
    };
    let authorities = traces.ca_file.as_ref().map(|path| {
        files::read(path, CERTIFICATE_BYTES).map_err(|error| wrong("telemetry.otlp_ca_file", path, &error))
    });
    Ok(Some(Collector {
        endpoint: traces.endpoint.clone(),
        headers,
        authorities: authorities.transpose()?,
        sample_ratio: traces.sample_ratio,
    }))
}
