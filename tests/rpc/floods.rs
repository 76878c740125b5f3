//! Peers that flood a connection with frames: the connection ends or waits, memory stays bounded, and everybody else is
//! answered. The frames are made by hand, because no library of clients sends them.

use std::{net::SocketAddr, time::Duration};

use babelward::{
    proto,
    rpc::{ServerOptions, TimeLimits},
};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::Code;

use crate::{
    raw::Raw,
    rig::{GUARD, Rig, Setup, classify, generate, reason},
};

/// What every HTTP/2 client says first: the preface and an empty SETTINGS frame (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The error code of a peer that should calm down (RFC 9113, section 7).
const ENHANCE_YOUR_CALM: u32 = 11;

/// Bytes of a flood, of which the server must take only a part.
const FLOOD: usize = 64 << 20;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header that is written out and not remembered (RFC 7541, section 6.2.2).
fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        // Lengths of 127 and more go on in further bytes of seven bits each (section 5.1).
        match u8::try_from(text.len()).ok().filter(|length| *length < 127) {
            Some(length) => bytes.push(length),
            None => {
                bytes.push(127);
                let mut rest = text.len() - 127;
                while rest >= 128 {
                    bytes.push(u8::try_from(rest % 128).unwrap() | 128);
                    rest /= 128;
                }
                bytes.push(u8::try_from(rest).unwrap());
            }
        }
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// The headers of a Classify.
fn call() -> Vec<u8> {
    [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/babelward.v1.SafetyService/Classify"),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
    .into_iter()
    .flat_map(|(name, value)| literal(name, value))
    .collect()
}

async fn connected(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    stream
}

/// Sends a flood and reads meanwhile, until the server closes. The error code of its GOAWAY, if there is one.
async fn flooded(address: SocketAddr, flood: Vec<u8>) -> Option<u32> {
    let (mut read, mut write) = connected(address).await.into_split();
    let sending = tokio::spawn(async move {
        // The server may close while this is being sent.
        let _ = write.write_all(&flood).await;
        write
    });
    let mut said = Vec::new();
    let _ = read.read_to_end(&mut said).await;
    sending.abort();
    goaway(&said)
}

/// The error code of the last GOAWAY frame.
fn goaway(mut said: &[u8]) -> Option<u32> {
    let mut code = None;
    while let Some((head, rest)) = said.split_at_checked(9) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (payload, next) = rest.split_at_checked(length)?;
        if head[3] == GOAWAY {
            code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
        said = next;
    }
    code
}

async fn others_are_answered(rig: &Rig) {
    let client = Raw::connect(rig.address).await;
    let status = client.call("SafetyService/Classify", "", classify(&["hi"])).await;
    assert_eq!(status.code(), Code::Ok, "{status:?}");
}

/// CVE-2023-44487: calls that are reset as soon as they are made, so that they never count as open.
#[tokio::test(flavor = "multi_thread")]
async fn rapid_resets_end_the_connection() {
    let rig = Rig::start().await;
    let mut flood = Vec::new();
    for number in 0..100_000u32 {
        let stream = 2 * number + 1;
        flood.extend(frame(HEADERS, END_HEADERS, stream, &call()));
        flood.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
    }
    assert_eq!(flooded(rig.address, flood).await, Some(ENHANCE_YOUR_CALM));
    others_are_answered(&rig).await;
    rig.idle().await;
    rig.stop().await;
}

/// CVE-2025-8671: calls that make the server reset them, by frames that are wrong for one call alone.
#[tokio::test(flavor = "multi_thread")]
async fn resets_that_the_server_is_made_to_send_end_the_connection() {
    let rig = Rig::start().await;
    let begin = |stream| frame(HEADERS, END_HEADERS, stream, &call());
    let ended = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &call());
    let wide = (i32::MAX as u32).to_be_bytes();
    type Wrong<'a> = Box<dyn Fn(u32) -> Vec<u8> + 'a>;
    let ways: [Wrong; 3] = [
        // A window that is larger than can be.
        Box::new(|stream| [begin(stream), frame(WINDOW_UPDATE, 0, stream, &wide)].concat()),
        // More of a request that has ended.
        Box::new(|stream| [ended(stream), frame(DATA, 0, stream, &[0; 8])].concat()),
        // More bytes than are announced.
        Box::new(|stream| {
            let mut headers = call();
            headers.extend(literal("content-length", "1"));
            let begin = frame(HEADERS, END_HEADERS, stream, &headers);
            [begin, frame(DATA, 0, stream, &[0; 8])].concat()
        }),
    ];
    for wrong in ways {
        let flood = (0..50_000u32).flat_map(|number| wrong(2 * number + 1)).collect();
        let code = flooded(rig.address, flood).await;
        assert!(code.is_some_and(|code| code != 0), "{code:?}");
        others_are_answered(&rig).await;
    }
    rig.idle().await;
    rig.stop().await;
}

/// Frames that need no answer take the time of whoever sends them, and nobody else's.
#[tokio::test(flavor = "multi_thread")]
async fn frames_that_say_nothing_keep_nobody_waiting() {
    let rig = Rig::start().await;
    for said in [
        frame(DATA, 0, 1, &[]),
        frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes()),
        frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 0]),
        // A frame of a kind that does not exist is to be passed over (RFC 9113, section 5.5).
        frame(0xfa, 0, 0, &[0; 16]),
    ] {
        let (mut read, mut write) = connected(rig.address).await.into_split();
        write
            .write_all(&frame(HEADERS, END_HEADERS, 1, &call()))
            .await
            .unwrap();
        let part = said.repeat((1 << 20) / said.len());
        let sending = tokio::spawn(async move {
            for _ in 0..16 {
                // The server may close while this is being sent.
                if write.write_all(&part).await.is_err() {
                    break;
                }
            }
        });
        let reading = tokio::spawn(async move { tokio::io::copy(&mut read, &mut tokio::io::sink()).await });
        while !sending.is_finished() {
            others_are_answered(&rig).await;
        }
        reading.abort();
        others_are_answered(&rig).await;
    }
    rig.idle().await;
    rig.stop().await;
}

/// CVE-2024-27316 and others: headers that never end.
#[tokio::test(flavor = "multi_thread")]
async fn continuations_without_an_end_end_the_connection() {
    let rig = Rig::start().await;
    for part in [&b""[..], &literal("x", "y")] {
        let mut flood = frame(HEADERS, 0, 1, &call());
        for _ in 0..100_000 {
            flood.extend(frame(CONTINUATION, 0, 1, part));
        }
        assert_eq!(flooded(rig.address, flood).await, Some(ENHANCE_YOUR_CALM));
    }
    others_are_answered(&rig).await;
    rig.stop().await;
}

/// A header of 4 KB that is remembered once and named a thousand times in one byte each: 4 MB of headers in a frame of 5 KB.
#[tokio::test(flavor = "multi_thread")]
async fn headers_that_grow_when_they_are_read_are_refused() {
    let rig = Rig::start().await;
    let mut block = call();
    let remembered = literal("x", &"y".repeat(4000));
    // Remembered (RFC 7541, section 6.2.1), and then the first entry of the table, which is 62, again and again.
    block.push(0x40);
    block.extend(&remembered[1..]);
    block.extend([0x80 | 62; 1000]);
    let flood = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block);
    assert_eq!(flooded(rig.address, flood).await, Some(ENHANCE_YOUR_CALM));
    others_are_answered(&rig).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_with_too_many_headers_is_refused_alone() {
    let rig = Rig::start().await;
    let (client, _ended) = Raw::watched(rig.address).await;
    let large = client.clone().with_key(&"x".repeat(20_000));
    let status = large.refused("SafetyService/Classify").await;
    assert_eq!(status, 431, "request header fields too large");
    let status = client.call("SafetyService/Classify", "", classify(&["hi"])).await;
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    rig.stop().await;
}

/// Frames that the server has to answer, from a peer that reads no answers: the server stops reading, and closes when the
/// peer has not answered its ping.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_no_answers_to_settings_and_pings_is_closed() {
    let setup = Setup {
        options: ServerOptions {
            times: TimeLimits {
                handshake: Duration::from_millis(200),
                ..Default::default()
            },
            ..Default::default()
        },
        ..Default::default()
    };
    let rig = Rig::with(setup).await;
    for frame in [frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, &[0; 8])] {
        let mut stream = connected(rig.address).await;
        let part = frame.repeat((1 << 20) / frame.len());
        let mut taken = 0;
        while taken < FLOOD && stream.write_all(&part).await.is_ok() {
            taken += part.len();
        }
        assert!(taken < FLOOD, "the server has taken it all");
        others_are_answered(&rig).await;
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_reads_is_given_up() {
    let setup = Setup {
        options: ServerOptions {
            times: TimeLimits {
                stream_idle: Duration::from_millis(50),
                ..Default::default()
            },
            ..Default::default()
        },
        ..Default::default()
    };
    let rig = Rig::with(setup).await;
    let stream = TcpStream::connect(rig.address).await.unwrap();
    let mut builder = h2::client::Builder::new();
    // No byte of an answer may be sent.
    builder.initial_window_size(0);
    let (send, connection) = builder.handshake::<_, bytes::Bytes>(stream).await.unwrap();
    tokio::spawn(connection);
    let client = Raw::of(send);
    let mut call = client.begin("GenerationService/Generate", "").await;
    let request = generate("[say yes] hi").encode_to_vec();
    let mut message = vec![0, 0, 0, 0, u8::try_from(request.len()).unwrap()];
    message.extend(request);
    call.send(&message).await;
    assert_eq!(call.reset().await, Some(h2::Reason::CANCEL));
    rig.idle().await;
    others_are_answered(&rig).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_messages_are_refused_and_none_is_asked_for() {
    let rig = Rig::start().await;
    let client = Raw::connect(rig.address).await;
    let mut call = client.begin("SafetyService/Classify", "").await;
    // A byte that says it is compressed, the length, and what could be a bomb.
    call.send(&[1, 0, 0, 0, 4, 0x1f, 0x8b, 8, 0]).await;
    let (status, headers) = call.finish().await;
    assert_eq!(status.code(), Code::Internal, "{status:?}");
    assert!(status.message().contains("compressed"), "{status:?}");
    for name in ["grpc-encoding", "grpc-accept-encoding"] {
        assert!(!headers.contains_key(name), "{headers:?}");
    }
    // One that says by which method it is compressed.
    let mut call = client
        .begin_with("SafetyService/Classify", &[("grpc-encoding", "gzip")])
        .await;
    call.send(&[1, 0, 0, 0, 4, 0x1f, 0x8b, 8, 0]).await;
    let (status, _) = call.finish().await;
    assert!(
        matches!(status.code(), Code::Unimplemented | Code::Internal),
        "{status:?}"
    );
    rig.idle().await;
    rig.stop().await;
}

/// Ids are looked up among those that are configured, and are never part of a path.
#[tokio::test(flavor = "multi_thread")]
async fn ids_are_never_paths() {
    let setup = Setup {
        options: ServerOptions {
            allow_admin: true,
            ..Default::default()
        },
        ..Default::default()
    };
    let rig = Rig::with(setup).await;
    let client = Raw::connect(rig.address).await;
    let here = env!("CARGO_MANIFEST_DIR");
    for id in [
        "../../etc/passwd".to_owned(),
        "/etc/passwd".to_owned(),
        format!("{here}/Cargo.toml"),
        format!("{GUARD}/../{GUARD}"),
        format!("{GUARD}\0"),
        "%2e%2e%2f".to_owned(),
    ] {
        let load = proto::LoadModelRequest {
            name: id.clone(),
            ..Default::default()
        };
        let status = client.call("AdminService/LoadModel", "", load).await;
        assert_eq!(reason(&status, Code::NotFound).0, "MODEL_NOT_FOUND", "{id}");
        let judge = proto::ClassifyRequest {
            model: id.clone(),
            ..classify(&["hi"])
        };
        let status = client.call("SafetyService/Classify", "", judge).await;
        assert_eq!(reason(&status, Code::NotFound).0, "MODEL_NOT_FOUND", "{id}");
    }
    rig.stop().await;
}
