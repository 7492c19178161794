"""Hardware settings that exclude each other."""

from alma_pipeline.schema import Hardware


def test_only_a_gpu_reports_free_memory_for_decoding() -> None:
    assert list(Hardware(name="x", device="cuda", decode_tokens=None).conflicts()) == []
    [problem] = Hardware(name="x", decode_tokens=None).conflicts()
    assert problem == "decode_tokens=null takes what a GPU has free, found device=cpu; set a number, such as 8192"
