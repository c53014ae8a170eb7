//! The series of certificate files that change.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, Opts};

use crate::transport::reloads;

const NAME: &str = "paquebot_certificate_reloads_total";
const HELP: &str = "Changed certificate and key files that were loaded, or could not be used.";

/// What the whole process has loaded: files belong to no group.
pub(super) struct CertificateSeries {
    description: Desc,
}

impl CertificateSeries {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let labels = vec!["result".to_owned()];
        let description = Desc::new(NAME.to_owned(), HELP.to_owned(), labels, Default::default())?;
        Ok(Self { description })
    }
}

impl Collector for CertificateSeries {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.description]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Ok(family) = IntCounterVec::new(Opts::new(NAME, HELP), &["result"]) else {
            return Vec::new();
        };
        for (result, count) in ["ok", "failed"].iter().zip(reloads()) {
            family.with_label_values(&[*result]).inc_by(count);
        }
        family.collect()
    }
}
