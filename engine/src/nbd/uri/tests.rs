use super::*;

fn parse(text: &str) -> Uri {
    assert!(Uri::is_meant(text.as_bytes()), "{text}");
    Uri::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn tcp(host: &str, port: u16) -> Address {
    let host = host.to_owned();
    Address::Tcp { host, port }
}

#[test]
fn the_examples_of_the_specification() {
    for (text, export) in [
        ("nbd://example.com/disk", "disk"),
        ("nbd://example.com/", ""),
        ("nbd://example.com", ""),
        ("nbd://example.com//disk", "/disk"),
        ("nbd://example.com/hello%20world", "hello world"),
    ] {
        let uri = parse(text);
        assert_eq!(uri.address(), &tcp("example.com", 10809), "{text}");
        assert_eq!(uri.export(), export, "{text}");
        assert_eq!(uri.tls(), None);
        assert_eq!(uri.to_string(), text);
    }
    let uri = parse("nbd+unix:///disk?socket=sock");
    assert_eq!(uri.address(), &Address::Unix("sock".into()));
    assert_eq!(uri.export(), "disk");
    let uri = parse("nbd+unix:///?socket=%00/abstract");
    assert_eq!(uri.address(), &Address::Unix("\0/abstract".into()));
    assert_eq!(uri.address().to_string(), "@/abstract");
}

#[test]
fn hosts_and_ports() {
    for (text, host, port) in [
        ("nbd://h:1", "h", 1),
        ("NBD://h:65535/x", "h", 65535),
        ("nbd://[::1]/x", "::1", 10809),
        ("nbd://[fe80:0::2]:99/x", "fe80::2", 99),
        ("nbd://10.0.0.1:/x", "10.0.0.1", 10809),
        ("nbd:///x", "localhost", 10809),
        ("nbd://h%61/x", "ha", 10809),
    ] {
        assert_eq!(parse(text).address(), &tcp(host, port), "{text}");
    }
    assert_eq!(tcp("::1", 7).to_string(), "[::1]:7");
}

#[test]
fn tls_has_a_folder_and_a_name() {
    let uri = parse("nbds://h/x?tls-certificates=/a%20b&tls-type=x509&tls-verify-peer=1");
    let tls = uri.tls().expect("the scheme says so");
    assert_eq!(tls.certificates, PathBuf::from("/a b"));
    assert_eq!(tls.hostname, "h");
    let uri = parse("nbds+unix:///x?tls-hostname=n&socket=/s&tls-certificates=c");
    assert_eq!(uri.tls().map(|tls| tls.hostname.as_str()), Some("n"));
    let uri = parse("nbds+unix:///x?socket=/s&tls-certificates=c");
    assert_eq!(
        uri.tls().map(|tls| tls.hostname.as_str()),
        Some("localhost")
    );
}

#[test]
fn what_is_wrong_is_said() {
    let long = format!("nbd://h/{}", "x".repeat(4097));
    let long_socket = format!("nbd+unix:///?socket=/{}", "x".repeat(107));
    for (text, word) in [
        ("nbd+unix:///x", "?socket="),
        ("nbd+unix://x?socket=s", "third slash"),
        ("nbd://h/x?socket=s", "nbd+unix"),
        ("nbd+vsock://1/x", "nbd+vsock"),
        ("nbd://h:99999/x", "65535"),
        ("nbd://h:0/x", "65535"),
        ("nbd://:5/x", "host"),
        ("nbd://user@h/x", "TLS-PSK"),
        ("nbd://h/x#y", "%23"),
        ("nbd+unix:/x?socket=s", "://"),
        ("nbd+unix:a://b?socket=s", "://"),
        ("nbd://h/a b", "%"),
        ("nbd://h/%ff", "UTF-8"),
        ("nbd://h/%00", "zero byte"),
        ("nbd://h/%zz", "%"),
        ("nbd+unix:///?socket=", "empty"),
        ("nbd+unix:///?socket=a%00", "zero byte"),
        ("nbd+unix:///?socket=a&socket=b", "twice"),
        ("nbd+unix:///?sokcet=a", "`sokcet`"),
        ("nbds://h/x", "tls-certificates="),
        ("nbd://h/x?tls-hostname=h", "nbds"),
        ("nbd://h/x?tls-verify-peer=1", "nbds"),
        (
            "nbds://h/x?tls-certificates=c&tls-verify-peer=0",
            "verified",
        ),
        ("nbds://h/x?tls-certificates=c&tls-type=psk", "x509"),
        (&long, "4096"),
        (&long_socket, "107"),
    ] {
        let error = Uri::parse(text).expect_err(text).to_string();
        assert!(error.contains(word), "{text}: {error}");
    }
}

#[test]
fn paths_are_not_taken_for_uris() {
    for text in [
        "/a/nbd://x",
        "nbd",
        "nbd:/x",
        "nbdx/y://z",
        "a://b",
        "",
        "nb",
    ] {
        assert!(!Uri::is_meant(text.as_bytes()), "{text}");
    }
}
