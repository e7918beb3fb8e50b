//! TLS to the database: sqlx speaks it as the URL says (`sslmode`, `sslrootcert`, `sslcert`, `sslkey`); here is what its errors mean to
//! whoever wrote that URL, and what they may have forgotten.

use std::{error::Error as StdError, io};

use rustls::{AlertDescription, CertificateError};
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::Error;

const NO_TLS: &str = "the database's server speaks no TLS, which sslmode in the URL asks for: switch it on there (ssl = on in \
                      postgresql.conf, with ssl_cert_file and ssl_key_file)";
const NO_FILE: &str =
    "a file that the database's URL names (sslrootcert, sslcert or sslkey) is not there or cannot be read";
const UNKNOWN: &str = "the certificate of the database's server is not of a known authority: name the file of the authority that \
                       signed it in the URL, as sslrootcert=/path/to/ca.pem";
const WRONG_NAME: &str = "the certificate of the database's server is for other names than the host in the URL: use a host that it \
                          names, or have the certificate made for this one too";
const EXPIRED: &str =
    "the certificate of the database's server has expired, or is not valid yet by this machine's clock";
const NOT_PROVEN: &str = "the certificate of the database's server cannot be verified";
const REFUSED: &str = "the database's server refused the handshake: it may ask for a client's certificate (sslcert and sslkey in the \
                       URL) of an authority that it knows (ssl_ca_file there)";

/// Whether what crosses to the database and back can be read on the way: it is beyond this machine, and nothing in the URL insists on TLS.
/// `prefer`, which is what a URL without `sslmode` means, gives way to whoever says that the server has none, and `allow` never asks.
#[must_use]
pub fn is_exposed(options: &PgConnectOptions) -> bool {
    let host = options.get_host().trim_start_matches('[').trim_end_matches(']');
    let local = options.get_socket().is_some()
        || host.starts_with('/')
        || host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
    let insists = matches!(options.get_ssl_mode(), PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull);
    !local && !insists
}

/// An error of connecting, with what to do where TLS is the reason.
pub(crate) fn explained(error: sqlx::Error) -> Error {
    match advice(&error) {
        Some(advice) => Error::Tls { advice, source: error },
        None => Error::Sql(error),
    }
}

fn advice(error: &sqlx::Error) -> Option<&'static str> {
    if let sqlx::Error::Tls(source) = error
        && source.to_string().contains("does not support TLS")
    {
        return Some(NO_TLS);
    }
    if let Some(reason) = reason(error) {
        return Some(of_reason(reason));
    }
    match error {
        sqlx::Error::Tls(_) => Some(NOT_PROVEN),
        // Of addresses nobody says so, except of unix sockets, whose errors name none of these files.
        sqlx::Error::Io(source)
            if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) =>
        {
            Some(NO_FILE)
        }
        _ => None,
    }
}

/// What rustls said, however deep it lies.
fn reason<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut at: Option<&'a (dyn StdError + 'static)> = Some(error);
    while let Some(error) = at {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        // An io::Error's source is the source of what it wraps, not that itself.
        at = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

fn of_reason(reason: &rustls::Error) -> &'static str {
    use CertificateError as Bad;
    match reason {
        rustls::Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => UNKNOWN,
        rustls::Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => WRONG_NAME,
        rustls::Error::InvalidCertificate(
            Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. },
        ) => EXPIRED,
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::HandshakeFailure,
        ) => REFUSED,
        _ => NOT_PROVEN,
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use super::*;

    #[test]
    fn a_database_beyond_this_machine_without_tls_is_exposed() {
        let exposed = |url: &str| is_exposed(&PgConnectOptions::from_str(url).unwrap());
        for url in [
            "postgres://db.internal/asobi",
            "postgres://10.0.0.5/asobi",
            "postgres://10.0.0.5/asobi?sslmode=prefer",
            "postgres://10.0.0.5/asobi?sslmode=allow",
            "postgres://10.0.0.5/asobi?sslmode=disable",
            "postgres://[2001:db8::1]/asobi",
        ] {
            assert!(exposed(url), "{url}");
        }
        for url in [
            "postgres://localhost/asobi",
            "postgres://127.0.0.1:5433/asobi",
            "postgres://[::1]/asobi",
            "postgres://%2Fvar%2Frun%2Fpostgresql/asobi",
            "postgres:///asobi?host=/var/run/postgresql",
            "postgres://db.internal/asobi?sslmode=require",
            "postgres://db.internal/asobi?sslmode=verify-full",
        ] {
            assert!(!exposed(url), "{url}");
        }
    }

    #[test]
    fn the_reason_is_found_under_what_wraps_it() {
        let unknown = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let wrapped = sqlx::Error::Io(io::Error::new(io::ErrorKind::InvalidData, unknown));
        assert_eq!(advice(&wrapped), Some(UNKNOWN));
        assert_eq!(advice(&sqlx::Error::Tls("server does not support TLS".into())), Some(NO_TLS));
        assert_eq!(advice(&sqlx::Error::Io(io::ErrorKind::ConnectionRefused.into())), None);
        assert_eq!(advice(&sqlx::Error::PoolTimedOut), None);
    }
}
