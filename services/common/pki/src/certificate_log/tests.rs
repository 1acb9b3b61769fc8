use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::NOW_MS;

const WEEK_MS: i64 = 7 * DAY_MS;

fn issued(serial: &[u8], at_ms: i64) -> LogEntry {
    LogEntry::Issued(IssuedEntry {
        at_ms,
        serial: serial.to_vec(),
        shown: None,
        certificate_der: vec![7; 600],
        not_after_ms: at_ms + WEEK_MS,
    })
}

fn revoked(serial: &[u8], at_ms: i64) -> LogEntry {
    LogEntry::Revoked(RevokedEntry {
        at_ms,
        node: [9; 16],
        certificates: vec![EndedCertificate {
            serial: serial.to_vec(),
            not_before_ms: at_ms - 1,
            not_after_ms: at_ms + WEEK_MS,
        }],
    })
}

fn files(folder: &TempDir) -> Vec<PathBuf> {
    let log = CertificateLog::open(folder.path()).unwrap();
    log.segments().unwrap()
}

fn entries(folder: &TempDir, now_ms: i64) -> Vec<LogEntry> {
    let log = CertificateLog::open(folder.path()).unwrap();
    log.read(now_ms).unwrap().entries
}

#[test]
fn what_was_written_is_read_in_the_order_of_its_times_whoever_wrote_it() {
    let folder = tempfile::tempdir().unwrap();
    let renewed = LogEntry::Issued(IssuedEntry {
        shown: Some(b"a".to_vec()),
        ..match issued(b"b", NOW_MS + 2) {
            LogEntry::Issued(entry) => entry,
            LogEntry::Revoked(_) => unreachable!(),
        }
    });
    let mut one = CertificateLog::open(folder.path()).unwrap();
    let mut other = CertificateLog::open(folder.path()).unwrap();
    one.append(&issued(b"a", NOW_MS), NOW_MS).unwrap();
    one.append(&revoked(b"b", NOW_MS + 3), NOW_MS).unwrap();
    other.append(&renewed, NOW_MS).unwrap();
    let expected = [issued(b"a", NOW_MS), renewed, revoked(b"b", NOW_MS + 3)];
    assert_eq!(entries(&folder, NOW_MS), expected);
    for file in files(&folder) {
        assert_eq!(fs::metadata(file).unwrap().mode() & 0o077, 0);
    }
}

#[test]
fn a_certificate_that_is_handed_out_again_is_written_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = CertificateLog::open(folder.path()).unwrap();
    for _ in 0..3 {
        log.append(&issued(b"a", NOW_MS), NOW_MS).unwrap();
    }
    assert_eq!(entries(&folder, NOW_MS).len(), 1);
}

#[test]
fn a_torn_last_line_is_told_and_takes_nothing_along() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = CertificateLog::open(folder.path()).unwrap();
    log.append(&issued(b"a", NOW_MS), NOW_MS).unwrap();
    log.append(&issued(b"b", NOW_MS), NOW_MS).unwrap();
    let path = files(&folder).remove(0);
    let whole = fs::read(&path).unwrap();
    let second = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    // Killed anywhere within the second line.
    for length in second + 1..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let contents = log.read(NOW_MS).unwrap();
        assert_eq!(contents.entries, [issued(b"a", NOW_MS)]);
        assert_eq!(contents.damaged, 1);
    }
}

#[test]
fn a_line_that_was_altered_is_not_taken_for_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = CertificateLog::open(folder.path()).unwrap();
    log.append(&issued(b"a", NOW_MS), NOW_MS).unwrap();
    log.append(&issued(b"b", NOW_MS), NOW_MS).unwrap();
    let path = files(&folder).remove(0);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        text.replacen("\"serial\":\"61\"", "\"serial\":\"63\"", 1),
    )
    .unwrap();
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"\xff\xfe junk\n\n").unwrap();
    let contents = log.read(NOW_MS).unwrap();
    assert_eq!(contents.entries, [issued(b"b", NOW_MS)]);
    assert_eq!(contents.damaged, 3);
}

#[test]
fn what_cannot_be_used_any_more_is_not_read_and_its_segments_go() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = CertificateLog::open(folder.path()).unwrap();
    log.append(&issued(b"a", NOW_MS), NOW_MS).unwrap();
    log.append(&revoked(b"a", NOW_MS), NOW_MS).unwrap();
    let over = NOW_MS + WEEK_MS + RENEWAL_GRACE_MS;
    assert_eq!(entries(&folder, over - 1).len(), 2);
    assert!(entries(&folder, over).is_empty());

    log.append(&issued(b"b", over - 1), over - 1).unwrap();
    assert_eq!(files(&folder).len(), 2, "it still mattered");
    log.append(&issued(b"c", over + DAY_MS), over + DAY_MS)
        .unwrap();
    assert_eq!(files(&folder).len(), 2, "the first has gone");
    assert_eq!(entries(&folder, over + DAY_MS).len(), 2);
}

#[test]
fn a_large_segment_is_followed_by_another() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = CertificateLog::open(folder.path()).unwrap();
    log.append(&issued(b"a", NOW_MS), NOW_MS).unwrap();
    log.segment.as_mut().unwrap().bytes = SEGMENT_BYTES;
    log.append(&issued(b"b", NOW_MS), NOW_MS).unwrap();
    assert_eq!(files(&folder).len(), 2);
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, "").unwrap();
    let refused = CertificateLog::open(&path.join("log")).unwrap_err();
    assert!(refused.to_string().contains("file"), "{refused}");
}
