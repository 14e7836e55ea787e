//! TLS: the certificate roots, and the handshake with its choice of HTTP/1.1 or HTTP/2.

use crate::request::Request;
use crate::socket::{Broken, Limits, TICK};
use evidence::Failure;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::future::Future;
use std::io;
use std::net::TcpStream;
use std::sync::{Arc, OnceLock};
use tokio_rustls::client::TlsStream;

/// The shared configuration: roots are loaded once a process, not once a connection.
pub(crate) fn config(insecure: bool) -> Result<Arc<ClientConfig>, Broken> {
    static STRICT: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
    static INSECURE: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
    let cell = if insecure { &INSECURE } else { &STRICT };
    let made = cell.get_or_init(|| build(insecure).map_err(|e| e.to_string()));
    made.clone().map_err(|why| Broken::new(Failure::Tls, format!("TLS is not usable: {why}")))
}

fn build(insecure: bool) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let mut config = if insecure {
        let verifier = Arc::new(AcceptAny(provider));
        builder?.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
    } else {
        builder?.with_root_certificates(roots()).with_no_client_auth()
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The system's roots; Mozilla's as of the build when the system has none (a bare container).
fn roots() -> RootCertStore {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if store.is_empty() {
        store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    store
}

/// `-k`: any certificate will do, but signatures must still be made with its key.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Shakes hands over a connected stream. The protocol chosen is in the stream's ALPN.
pub(crate) async fn handshake(
    request: &Request,
    stream: TcpStream,
    limits: &Limits,
) -> Result<TlsStream<tokio::net::TcpStream>, Broken> {
    let config = config(request.insecure)?;
    let name = ServerName::try_from(request.host.clone())
        .map_err(|e| Broken::new(Failure::Tls, format!("`{}`: {e}", request.host)))?;
    let failed = |e: io::Error| Broken::io(&e, Failure::Connect);
    stream.set_nonblocking(true).map_err(failed)?;
    let stream = tokio::net::TcpStream::from_std(stream).map_err(failed)?;
    let handshake = tokio_rustls::TlsConnector::from(config).connect(name, stream);
    match bounded(limits, handshake).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(e)) => Err(explain(&e)),
        Err(e) => Err(Broken::io(&e, Failure::Tls)),
    }
}

/// Awaits a future within the limits.
pub(crate) async fn bounded<F: Future>(limits: &Limits, future: F) -> io::Result<F::Output> {
    let mut future = std::pin::pin!(future);
    let since = crate::clock::now();
    loop {
        let wait = limits.left(since)?.min(TICK);
        if let Ok(output) = tokio::time::timeout(wait, future.as_mut()).await {
            return Ok(output);
        }
    }
}

fn explain(error: &io::Error) -> Broken {
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
    let hint = match inner {
        Some(Error::InvalidCertificate(_)) => "hint: -k accepts any certificate",
        Some(Error::InvalidMessage(_)) => "hint: this port may not speak TLS; try http://",
        _ => "hint: check that this port speaks TLS 1.2 or 1.3",
    };
    Broken::new(Failure::Tls, format!("TLS handshake failed: {error}\n{hint}"))
}

/// Whether the server chose HTTP/2.
pub(crate) fn chose_h2(stream: &TlsStream<tokio::net::TcpStream>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(b"h2")
}
