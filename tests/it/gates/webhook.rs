//! Approvers told over HTTP.

use hmac::{Hmac, KeyInit as _, Mac as _};
use portcullis::Secret;
use portcullis::adapters::approvals::{InvalidWebhook, Webhook};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// Answers each request with the next status, and hands on what it was sent.
async fn server(
    statuses: &'static [&'static str],
) -> (String, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (said, heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        for status in statuses {
            let (mut connection, _) = listener.accept().await.unwrap();
            let (mut request, mut piece) = (Vec::new(), [0; 4_096]);
            loop {
                let read = connection.read(&mut piece).await.unwrap();
                request.extend_from_slice(&piece[..read]);
                let text = String::from_utf8_lossy(&request);
                let Some((head, body)) = text.split_once("\r\n\r\n") else {
                    continue;
                };
                let length: usize = head
                    .lines()
                    .find_map(|line| {
                        line.to_ascii_lowercase()
                            .strip_prefix("content-length: ")
                            .map(|n| n.parse().unwrap())
                    })
                    .unwrap();
                if body.len() >= length {
                    break;
                }
            }
            said.send(String::from_utf8(request).unwrap()).unwrap();
            let answer = format!(
                "HTTP/1.1 {status}\r\nlocation: /elsewhere\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
            connection.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (url, heard)
}

#[tokio::test]
async fn a_webhook_is_signed_says_no_content_and_is_tried_again() {
    let gate = Gate::with_policy().await;
    let secret = Secret::generate().unwrap();
    let (url, mut heard) = server(&["503 Away", "204 Taken", "302 Found", "204 Never"]).await;
    gate.gates()
        .notify_with(Webhook::new(&url, &secret).unwrap());
    let request = gate.ask(&refund(900)).await;
    let first = heard.recv().await.unwrap();
    let second = heard.recv().await.unwrap();
    let (_, body) = first.split_once("\r\n\r\n").unwrap();
    assert!(second.ends_with(body), "the same again");
    let said: Value = serde_json::from_str(body).unwrap();
    assert_eq!(said["request_id"], json!(request.id.to_string()));
    assert_eq!(
        (&said["label"], &said["quorum"]),
        (&json!("refund"), &json!(1))
    );
    assert!(
        !first.contains("inv_381") && !first.contains("900\"") && !first.contains("u_17\",\"agent")
    );
    let signature = first
        .lines()
        .find_map(|line| line.strip_prefix("x-portcullis-signature: t="))
        .unwrap();
    let (seconds, tag) = signature.split_once(",v1=").unwrap();
    let key = hex::decode(&*secret.to_hex()).unwrap();
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&key).unwrap();
    mac.update(format!("{seconds}.{body}").as_bytes());
    assert_eq!(tag, hex::encode(mac.finalize().into_bytes()));
    // A redirect is not followed, and not tried again.
    gate.ask(&refund(901)).await;
    assert!(heard.recv().await.unwrap().contains("POST /hook"));
    gate.gov.shutdown().await;
    assert!(heard.try_recv().is_err());

    for bad in ["", "ftp://x.test/", "https://u:p@x.test/", "nothing"] {
        assert_eq!(Webhook::new(bad, &secret).err(), Some(InvalidWebhook::Url));
    }
}
