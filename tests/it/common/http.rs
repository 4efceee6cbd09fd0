//! A server on this machine that answers as a test says.

use std::convert::Infallible;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// What is answered: a status, the type of the body, and the body.
pub(crate) type Answer = (u16, &'static str, Vec<u8>);

/// Serves every POST with what `answer` makes of its path and body; the URL. Each answer is made on
/// a thread that may block.
pub(crate) async fn serve(
    answer: impl Fn(&str, Vec<u8>) -> Answer + Send + Sync + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = Arc::clone(&answer);
                async move {
                    let path = request.uri().path().to_owned();
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let made =
                        tokio::task::spawn_blocking(move || answer(&path, body.to_vec())).await;
                    let (status, kind, body) = made.unwrap();
                    let answer = Response::builder()
                        .status(status)
                        .header("content-type", kind)
                        .header("location", "/elsewhere")
                        .body(Full::new(Bytes::from(body)))
                        .unwrap();
                    Ok::<_, Infallible>(answer)
                }
            });
            tokio::spawn(async move {
                // A client that goes away is no fault of the server's.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(connection), service)
                    .await;
            });
        }
    });
    url
}
