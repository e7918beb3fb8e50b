//! An answer that ends with what it was asked for with: a stream goes on for hours, a token may be revoked meanwhile.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::HeaderMap;
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use tonic::{Status, body::Body};

type Ended = Pin<Box<dyn Future<Output = Status> + Send>>;

/// A body, until a future tells why it ends early.
pub(super) struct Guarded {
    body: Body,
    /// None: it has told.
    ended: Option<Ended>,
}

impl Guarded {
    pub fn new(body: Body, ended: impl Future<Output = Status> + Send + 'static) -> Self {
        Self { body, ended: Some(Box::pin(ended)) }
    }
}

impl HttpBody for Guarded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(ended) = &mut self.ended else { return Poll::Ready(None) };
        if let Poll::Ready(status) = ended.as_mut().poll(cx) {
            self.ended = None;
            self.body = Body::empty();
            let mut trailers = HeaderMap::new();
            return Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.ended.is_none() || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn next(body: &mut Guarded) -> Option<Frame<Bytes>> {
        std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await.map(|frame| frame.unwrap())
    }

    #[tokio::test]
    async fn a_stream_ends_with_the_right_to_it() {
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let silent = Body::new(tonic::body::Body::new(Silent));
        let mut body = Guarded::new(silent, async move {
            ended.await.unwrap();
            Status::permission_denied("its token was revoked")
        });
        let waits = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx).is_pending()));
        assert!(waits.await);
        end.send(()).unwrap();
        let trailers = next(&mut body).await.unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "7");
        assert!(next(&mut body).await.is_none() && body.is_end_stream());
    }

    #[tokio::test]
    async fn what_ends_by_itself_is_left_as_it_is() {
        let mut body = Guarded::new(Body::empty(), std::future::pending());
        assert!(body.is_end_stream() && next(&mut body).await.is_none());
    }

    struct Silent;

    impl HttpBody for Silent {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Pending
        }
    }
}
