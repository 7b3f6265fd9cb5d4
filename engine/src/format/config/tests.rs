use super::*;

fn config() -> Config {
    let created = Timestamp::from_second(1_795_000_000).expect("in range");
    let mut config = Config::new(
        RepositoryId::from_bytes([0x11; 32]),
        created,
        Some(Salt::from_bytes([0x22; 32])),
    );
    config.unknown.insert("site".to_owned(), "north".into());
    config
}

fn mac(bytes: &[u8]) -> [u8; 32] {
    blake3::keyed_hash(&[7; 32], bytes).into()
}

fn encoded() -> Vec<u8> {
    config().encode(mac).expect("the config is valid")
}

#[test]
fn configs_round_trip() -> Result<(), FormatError> {
    let bytes = encoded();
    Config::verify(&bytes, mac)?;
    assert_eq!(Config::decode(&bytes)?, config());
    let mut plain = config();
    plain.encryption = None;
    plain.compression = Compression::None;
    assert_eq!(Config::decode(&plain.encode(mac)?)?, plain);
    Ok(())
}

#[test]
fn every_flipped_bit_is_detected() {
    let bytes = encoded();
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(Config::verify(&damaged, mac).is_err(), "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert!(Config::verify(&bytes[..len], mac).is_err(), "{len} bytes");
    }
    let spaced = [&bytes[..], b" "].concat();
    assert!(Config::verify(&spaced, mac).is_err());
    assert!(Config::verify(&bytes, |_| [0; 32]).is_err());
}

#[test]
fn the_grace_need_not_be_said() {
    let text = String::from_utf8(encoded()).expect("JSON is text");
    assert!(!text.contains("grace_seconds"), "{text}");
    let mut set = config();
    for seconds in [0, 3600, GRACE_SECONDS_MAX] {
        set.grace_seconds = Some(seconds);
        let bytes = set.encode(mac).expect("the config is valid");
        assert_eq!(Config::decode(&bytes), Ok(set.clone()));
    }
    set.grace_seconds = Some(GRACE_SECONDS_MAX + 1);
    assert!(matches!(
        set.encode(mac),
        Err(FormatError::OutOfRange { .. })
    ));
    for grace in ["-1", "\"7d\"", "1e3", "3155760001"] {
        let member = format!("\"grace_seconds\":{grace},\"incompatible\":[]");
        assert!(
            decode_with("\"incompatible\":[]", &member).is_err(),
            "{grace}"
        );
    }
}

#[test]
fn parity_need_not_be_said() {
    let text = String::from_utf8(encoded()).expect("JSON is text");
    assert!(!text.contains("parity_percent"), "{text}");
    let mut set = config();
    for percent in [1, 5, 100] {
        set.parity_percent = Some(percent);
        let bytes = set.encode(mac).expect("the config is valid");
        assert_eq!(Config::decode(&bytes), Ok(set.clone()));
    }
    for percent in [0, 101] {
        set.parity_percent = Some(percent);
        assert!(matches!(
            set.encode(mac),
            Err(FormatError::OutOfRange { .. })
        ));
    }
    for percent in ["0", "101", "256", "-1", "\"5%\"", "2.5"] {
        let member = format!("\"parity_percent\":{percent},\"incompatible\":[]");
        let decoded = decode_with("\"incompatible\":[]", &member);
        assert!(decoded.is_err(), "{percent}");
    }
}

fn decode_with(from: &str, to: &str) -> Result<Config, FormatError> {
    let text = String::from_utf8(encoded()).expect("JSON is text");
    assert!(text.contains(from), "{from} is not in {text}");
    Config::decode(text.replace(from, to).as_bytes())
}

#[test]
fn what_other_versions_need_is_refused_as_such() {
    let newer = decode_with("\"format\":1", "\"format\":2,\"chunker\":3");
    assert!(
        matches!(newer, Err(FormatError::UnsupportedVersion { found: 2, .. })),
        "{newer:?}"
    );
    for (from, to) in [
        ("\"incompatible\":[]", "\"incompatible\":[\"bases\"]"),
        ("fastcdc-v2020", "seqcdc"),
        ("aes-256-gcm", "aes-256-gcm-siv"),
        ("argon2id", "scrypt"),
        ("\"zstd\"", "\"lz4\""),
    ] {
        let refused = decode_with(from, to);
        assert!(
            matches!(refused, Err(FormatError::UnsupportedFeature { .. })),
            "{refused:?}"
        );
    }
    assert_eq!(
        decode_with("\"compatible\":[]", "\"compatible\":[\"x\"]").map(|_| ()),
        Ok(())
    );
}

#[test]
fn settings_out_of_their_limits_are_refused() {
    for (from, to) in [
        ("\"average\":16384", "\"average\":2048"),
        ("\"average\":16384", "\"average\":2097152"),
        ("\"average\":16384", "\"average\":20000"),
        ("\"normalization\":2", "\"normalization\":4"),
        ("\"frame_len\":65536", "\"frame_len\":8192"),
        ("\"frame_len\":65536", "\"frame_len\":1048577"),
        ("\"pack_len\":67108864", "\"pack_len\":0"),
        ("\"pack_len\":67108864", "\"pack_len\":1073741824"),
        ("\"level\":1", "\"level\":20"),
        ("\"level\":1", "\"grade\":1"),
        ("\"memory_kib\":65536", "\"memory_kib\":7"),
        ("\"memory_kib\":65536", "\"memory_kib\":1048577"),
        ("\"passes\":3", "\"passes\":0"),
        ("\"lanes\":1", "\"lanes\":0"),
        ("\"frame_len\":65536", "\"frame_len\":-1"),
    ] {
        let refused = decode_with(from, to);
        let expected = matches!(
            refused,
            Err(FormatError::OutOfRange { .. }
                | FormatError::Malformed { .. }
                | FormatError::BadDocument { .. })
        );
        assert!(expected, "{to}: {refused:?}");
    }
}
