//! HTTP targets, the webhook sink and the mail sink, seen through plain sockets: this crate has no HTTP client.

use std::sync::Arc;
use std::time::{Duration, Instant};

use groundskeeper_testing::{HttpTarget, MailSink, TlsOptions, WebhookSink};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const BOUND: Duration = Duration::from_secs(5);

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // A TLS peer that closes without close_notify still has answered.
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

const GET: &str = "GET /health?deep=1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

async fn get(target: &HttpTarget) -> String {
    exchange(TcpStream::connect(target.address()).await.unwrap(), GET).await
}

#[tokio::test]
async fn an_http_target_answers_as_told() {
    let mut target = HttpTarget::start().await.unwrap();
    assert!(get(&target).await.starts_with("HTTP/1.1 200 OK"));

    target.set_status(503);
    target.set_body("down for maintenance");
    target.set_delay(Duration::from_millis(150));
    let asked = Instant::now();
    let answer = get(&target).await;
    assert!(asked.elapsed() >= Duration::from_millis(150));
    assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("down for maintenance"), "{answer}");
    assert_eq!(target.requests(), 2);
    assert_eq!(target.paths(), ["/health?deep=1", "/health?deep=1"]);

    target.stop().await.unwrap();
    assert!(TcpStream::connect(target.address()).await.is_err());
    target.start_again().await.unwrap();
    assert!(get(&target).await.starts_with("HTTP/1.1 503"));
}

async fn get_tls(target: &HttpTarget) -> Result<String, std::io::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(target.ca_pem().unwrap().as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(target.address()).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    Ok(exchange(stream, GET).await)
}

#[tokio::test]
async fn a_certificate_is_as_old_as_asked_for() {
    let valid = HttpTarget::start_tls(TlsOptions { days_left: 7, ..TlsOptions::default() }).await.unwrap();
    assert!(valid.url().starts_with("https://localhost:"));
    assert!(get_tls(&valid).await.unwrap().starts_with("HTTP/1.1 200"));

    let silent = TcpStream::connect(valid.address()).await.unwrap();
    assert!(tokio::time::timeout(BOUND, get_tls(&valid)).await.unwrap().is_ok(), "a silent client holds up others");
    drop(silent);

    let expired = HttpTarget::start_tls(TlsOptions { days_left: -2, ..TlsOptions::default() }).await.unwrap();
    let error = get_tls(&expired).await.unwrap_err();
    assert!(error.to_string().to_lowercase().contains("expired"), "{error}");

    let own = HttpTarget::start_tls(TlsOptions { self_signed: true, ..TlsOptions::default() }).await.unwrap();
    assert!(get_tls(&own).await.unwrap().starts_with("HTTP/1.1 200"), "it is trusted by those who trust it itself");
}

async fn post(sink: &WebhookSink, body: &str) -> String {
    let address = sink.url().trim_start_matches("http://").trim_end_matches("/hook").to_owned();
    let head = format!("POST /hook HTTP/1.1\r\nhost: x\r\nX-Signature: abc\r\ncontent-length: {}", body.len());
    let stream = TcpStream::connect(address).await.unwrap();
    exchange(stream, &format!("{head}\r\nconnection: close\r\n\r\n{body}")).await
}

#[tokio::test]
async fn a_webhook_sink_records_what_it_did_not_refuse() {
    let sink = WebhookSink::start().await.unwrap();
    sink.fail_first(2);
    assert!(post(&sink, "{}").await.starts_with("HTTP/1.1 500"));
    assert!(post(&sink, "{}").await.starts_with("HTTP/1.1 500"));
    assert!(sink.received().await.is_empty());

    let (delivered, _) = tokio::join!(sink.wait_for(1, BOUND), post(&sink, r#"{"finding":"disk"}"#));
    let delivered = delivered.unwrap();
    assert_eq!(delivered[0].body["finding"], "disk");
    assert_eq!(delivered[0].headers["x-signature"], "abc");
    assert_eq!(sink.attempts(), 3);
    let error = sink.wait_for(2, Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error.to_string(), "1 of 2 arrived within 50ms");
}

#[tokio::test]
async fn a_mail_sink_takes_a_whole_conversation() {
    let sink = MailSink::start().await.unwrap();
    let mut stream = BufReader::new(TcpStream::connect(sink.address()).await.unwrap());
    let steps = [
        ("", "220"),
        ("EHLO me\r\n", "250 "),
        ("MAIL FROM:<keeper@example.org> BODY=8BITMIME\r\n", "250"),
        ("RCPT TO:<one@example.org>\r\n", "250"),
        ("RCPT TO:<two@example.org>\r\n", "250"),
        ("DATA\r\n", "354"),
        ("Subject: disk\r\n\r\n..dotted\r\nfull\r\n.\r\n", "250"),
        ("QUIT\r\n", "221"),
    ];
    for (said, expected) in steps {
        stream.write_all(said.as_bytes()).await.unwrap();
        let mut line = String::new();
        while !line.starts_with(expected) {
            line.clear();
            assert!(stream.read_line(&mut line).await.unwrap() > 0, "hung up after {said:?}");
            assert!(line.starts_with('2') || line.starts_with("354"), "{said:?} was answered {line:?}");
        }
    }
    let mails = sink.wait_for(1, BOUND).await.unwrap();
    assert_eq!(mails[0].from, "keeper@example.org");
    assert_eq!(mails[0].to, ["one@example.org", "two@example.org"]);
    assert_eq!(mails[0].data, "Subject: disk\n\n.dotted\nfull\n");
}
