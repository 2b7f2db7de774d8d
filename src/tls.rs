//! What a server must prove before anything is said to it: a certificate for its
//! name, signed by an authority that is trusted.
//!
//! There is no mode that encrypts without looking at the certificate: it would
//! keep nobody out who can be in between.

use std::error::Error;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// There is nobody to trust.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoAuthorities(String);

/// The authorities that one server may be vouched for by.
pub struct Trust {
    /// Else those of the system.
    ca_file: Option<PathBuf>,
    /// Once they were needed.
    settings: Mutex<Option<ClientConfig>>,
}

impl Trust {
    /// `ca_file`: PEM, one certificate or several.
    pub fn new(ca_file: Option<PathBuf>) -> Self {
        Self { ca_file, settings: Mutex::default() }
    }

    /// For a client. Reads the authorities, unless they are known.
    pub fn settings(&self) -> Result<ClientConfig, NoAuthorities> {
        let mut known = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(settings) = &*known {
            return Ok(settings.clone());
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let settings = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| NoAuthorities(error.to_string()))?
            .with_root_certificates(self.authorities()?)
            .with_no_client_auth();
        Ok(known.insert(settings).clone())
    }

    /// They are read anew when they are needed next: a server that was refused
    /// may be vouched for by what the file says by now.
    pub fn forget(&self) {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// What a failed handshake means, if this is one.
    pub fn explain(&self, error: &(dyn Error + 'static)) -> Option<String> {
        Some(match refusal(error)? {
            rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer) => {
                format!("its certificate is signed by no authority of {}", self.place())
            }
            rustls::Error::InvalidCertificate(why) => format!("its certificate won't do: {why}"),
            other => format!("TLS failed: {other}"),
        })
    }

    fn authorities(&self) -> Result<RootCertStore, NoAuthorities> {
        let mut store = RootCertStore::empty();
        let wrong = |error: String| NoAuthorities(format!("can't use {}: {error}", self.place()));
        if let Some(file) = &self.ca_file {
            for certificate in CertificateDer::pem_file_iter(file).map_err(|e| wrong(e.to_string()))? {
                let certificate = certificate.map_err(|e| wrong(e.to_string()))?;
                store.add(certificate).map_err(|e| wrong(e.to_string()))?;
            }
        } else {
            let found = rustls_native_certs::load_native_certs();
            // Systems keep some that are too old to be read.
            store.add_parsable_certificates(found.certs);
        }
        if store.is_empty() {
            return Err(wrong("there is no certificate in it".to_owned()));
        }
        Ok(store)
    }

    fn place(&self) -> String {
        let of_system = || "the system's certificates (name others with ca_file)".to_owned();
        self.ca_file.as_ref().map_or_else(of_system, |file| file.display().to_string())
    }
}

/// What rustls said, below what others made of it.
fn refusal<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(said) = error.downcast_ref() {
        return Some(said);
    }
    // Its source is that of what it holds.
    let held = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    match held {
        Some(held) => refusal(held),
        None => error.source().and_then(refusal),
    }
}
