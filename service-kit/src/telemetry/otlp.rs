//! Where what leaves over OTLP/gRPC goes, as the usual variables say it, for each signal or for all of them:
//!
//! | variable | what it says |
//! | --- | --- |
//! | `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, `…_METRICS_ENDPOINT`, else `OTEL_EXPORTER_OTLP_ENDPOINT` | where to; without one nothing is sent |
//! | `OTEL_TRACES_EXPORTER`, `OTEL_METRICS_EXPORTER` | `none`: nothing is sent all the same |
//! | `OTEL_SDK_DISABLED` | `true`: the same for both |
//! | `OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE`, `…_METRICS_CERTIFICATE`, else `OTEL_EXPORTER_OTLP_CERTIFICATE` | the authority of an `https` endpoint, a file in PEM |

use std::time::Duration;

use anyhow::{Context as _, bail};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

const CONNECT: Duration = Duration::from_secs(10);

/// What one signal's variables say, in the way that an environment is asked.
pub(super) struct Variables<F> {
    /// As their names have it: TRACES or METRICS.
    signal: &'static str,
    read: F,
}

/// The variables of this process for one signal.
pub(super) fn variables(signal: &'static str) -> Variables<impl Fn(&str) -> Option<String>> {
    Variables::new(signal, |name: &str| std::env::var(name).ok())
}

impl<F: Fn(&str) -> Option<String>> Variables<F> {
    pub fn new(signal: &'static str, read: F) -> Self {
        Self { signal, read }
    }

    /// One variable; None where it is empty, too.
    pub fn get(&self, name: &str) -> Option<String> {
        (self.read)(name).filter(|value| !value.trim().is_empty())
    }

    /// Of the signal alone, else of all.
    pub fn own(&self, what: &str) -> Option<String> {
        self.get(&format!("OTEL_EXPORTER_OTLP_{}_{what}", self.signal))
            .or_else(|| self.get(&format!("OTEL_EXPORTER_OTLP_{what}")))
    }

    /// A connection to the collector, made when it is needed. None: nothing is to be sent.
    ///
    /// # Errors
    /// What is wrong with the variables, by their names.
    pub fn channel(&self) -> anyhow::Result<Option<Channel>> {
        let off = self.get(&format!("OTEL_{}_EXPORTER", self.signal)).is_some_and(|exporter| exporter == "none")
            || self.get("OTEL_SDK_DISABLED").is_some_and(|disabled| disabled.eq_ignore_ascii_case("true"));
        let Some(url) = self.own("ENDPOINT").filter(|_| !off) else { return Ok(None) };
        let endpoint = Endpoint::from_shared(url.clone());
        let endpoint = endpoint.with_context(|| format!("OTEL_EXPORTER_OTLP_ENDPOINT is no address: {url}"))?;
        let endpoint = endpoint.connect_timeout(CONNECT);
        let endpoint = match endpoint.uri().scheme_str() {
            Some("http") => endpoint,
            Some("https") => endpoint.tls_config(self.tls()?)?,
            _ => bail!("OTEL_EXPORTER_OTLP_ENDPOINT is {url}; it begins with http:// or https://"),
        };
        Ok(Some(endpoint.connect_lazy()))
    }

    /// No authority is trusted that was not named: a collector is the operator's own.
    fn tls(&self) -> anyhow::Result<ClientTlsConfig> {
        let file = self.own("CERTIFICATE").context(
            "an https endpoint needs OTEL_EXPORTER_OTLP_CERTIFICATE, the file with the authority's certificate",
        )?;
        let pem =
            std::fs::read(&file).with_context(|| format!("OTEL_EXPORTER_OTLP_CERTIFICATE: {file} cannot be read"))?;
        Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317");

    fn channel(signal: &'static str, variables: &[(&str, &str)]) -> anyhow::Result<bool> {
        let read = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Variables::new(signal, read).channel().map(|channel| channel.is_some())
    }

    #[tokio::test]
    async fn each_signal_is_sent_where_its_variables_say() {
        for signal in ["TRACES", "METRICS"] {
            assert!(!channel(signal, &[]).unwrap());
            assert!(channel(signal, &[ENDPOINT]).unwrap());
            assert!(!channel(signal, &[ENDPOINT, ("OTEL_SDK_DISABLED", "True")]).unwrap());
            assert!(!channel(signal, &[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]).unwrap());
        }
        let traces_off = [ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")];
        assert!(!channel("TRACES", &traces_off).unwrap() && channel("METRICS", &traces_off).unwrap());
        let metrics_alone = [("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://127.0.0.1:4317")];
        assert!(!channel("TRACES", &metrics_alone).unwrap() && channel("METRICS", &metrics_alone).unwrap());
    }

    #[tokio::test]
    async fn over_tls_the_authority_is_named() {
        const HTTPS: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:4317");
        let refused = |variables: &[(&str, &str)]| channel("TRACES", variables).unwrap_err().to_string();
        assert!(refused(&[HTTPS]).contains("OTEL_EXPORTER_OTLP_CERTIFICATE"));
        assert!(refused(&[HTTPS, ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such")]).contains("/no/such"));
        assert!(refused(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317")]).contains("begins with http://"));
        let made = rcgen::generate_simple_self_signed(["collector".to_owned()]).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), made.cert.pem()).unwrap();
        let path = file.path().to_str().unwrap();
        assert!(channel("TRACES", &[HTTPS, ("OTEL_EXPORTER_OTLP_CERTIFICATE", path)]).unwrap());
        assert!(channel("METRICS", &[HTTPS, ("OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", path)]).unwrap());
    }
}
