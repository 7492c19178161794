"""How far locks reach, by mount tables of machines with network file systems."""

from pathlib import Path

import pytest

from alma_pipeline.mounts import Reach, lock_note, mount_of

TABLE = r"""/dev/sda1 / ext4 rw,relatime 0 0
proc /proc proc rw,nosuid 0 0
beegfs_nodev /beegfs beegfs rw,relatime,cfgFile=/etc/beegfs/beegfs-client.conf,_netdev 0 0
10.0.0.1@o2ib:/work /lustre/work lustre rw,flock,lazystatfs 0 0
10.0.0.1@o2ib:/tmp /lustre/tmp lustre rw,localflock,lazystatfs 0 0
10.0.0.1@o2ib:/old /lustre/old lustre rw,lazystatfs 0 0
filer:/home /home nfs4 rw,relatime,vers=4.2,local_lock=none,addr=10.0.0.2 0 0
filer:/scratch /scratch nfs rw,relatime,vers=3,nolock,local_lock=all,addr=10.0.0.2 0 0
filer:/flock /my\040files nfs rw,vers=3,local_lock=flock 0 0
gpfs0 /gpfs gpfs rw,relatime 0 0
host /mnt/host virtiofs rw 0 0
tmpfs /beegfs/here tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "reach", "note"),
    [
        ("/data/store", Reach.ALL, ""),
        ("/beegfs/me", Reach.UNKNOWN, "(beegfs) reach one machine unless its clients set tuneUseGlobalFileLocks=true"),
        ("/beegfs/here/store", Reach.ALL, ""),
        ("/beegfs2", Reach.ALL, ""),
        ("/lustre/work/store", Reach.ALL, ""),
        ("/lustre/tmp/store", Reach.ONE, "on /lustre/tmp (lustre) reach one machine; the mount option flock changes that"),
        ("/lustre/old/store", Reach.UNKNOWN, "may reach one machine only; the mount option flock"),
        ("/home/me", Reach.ALL, ""),
        ("/scratch/me", Reach.ONE, "(nfs) reach one machine; the mount option local_lock=none changes that"),
        ("/my files/store", Reach.ONE, "file locks on /my files (nfs)"),
        ("/gpfs/store", Reach.ALL, ""),
        ("/mnt/host", Reach.UNKNOWN, "(virtiofs) may reach one machine only"),
    ],
)
def test_how_far_locks_reach(path: str, reach: Reach, note: str) -> None:
    mount = mount_of(Path(path), TABLE)
    assert mount and mount.reach is reach
    assert note in lock_note(mount) and bool(note) == bool(lock_note(mount))


def test_without_a_table_nothing_is_known() -> None:
    assert mount_of(Path("/data"), "") is None


def test_this_machine_has_a_table(tmp_path: Path) -> None:
    mount = mount_of(tmp_path)
    assert mount and tmp_path.is_relative_to(mount.point)
