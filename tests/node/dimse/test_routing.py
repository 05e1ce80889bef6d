import queue
import threading
import time
from types import SimpleNamespace

import pytest
from pynetdicom.dimse_messages import C_STORE_RSP
from pynetdicom.dimse_primitives import C_STORE, N_EVENT_REPORT
from pynetdicom.sop_class import CTImageStorage

from limn.node.dimse.routing import drop_responses, encode_store_response, take


@pytest.mark.parametrize(
    ("sop_class", "instance"),
    [
        (CTImageStorage, "1.2.3"),
        (CTImageStorage, "1.2.34"),
        (None, "1.2.3"),
        (CTImageStorage, None),
    ],
)
@pytest.mark.parametrize("status", [0x0000, 0x0111, 0xA700, 0xC000])
def test_an_answer_goes_out_as_pynetdicom_encodes_it(sop_class, instance, status):
    """Byte by byte, and what has more to say is left to pynetdicom."""
    said = C_STORE()
    said.MessageIDBeingRespondedTo, said.Status = 65535, status
    said.AffectedSOPClassUID, said.AffectedSOPInstanceUID = sop_class, instance
    message = C_STORE_RSP()
    message.primitive_to_message(said)
    (theirs,) = message.encode_msg(5, 16384)
    ours = encode_store_response(said, 5, 16384)
    assert ours.presentation_data_value_list == theirs.presentation_data_value_list
    said.ErrorComment = "no room"
    assert encode_store_response(said, 5, 16384) is None


def test_what_is_not_plain_is_left_to_pynetdicom():
    """A peer of small PDUs gets pieces, and a UID that is none is encoded as pynetdicom does."""
    said = C_STORE()
    said.MessageIDBeingRespondedTo, said.Status = 1, 0xC000
    said.AffectedSOPClassUID, said.AffectedSOPInstanceUID = CTImageStorage, "1.2.3"
    assert encode_store_response(said, 5, 128) is None
    assert encode_store_response(said, 5, 0) is not None
    said._affected_sop_instance_uid = "1.2.é"
    assert encode_store_response(said, 5, 0) is None


def dimse(*messages):
    """What has come so far."""
    came = queue.Queue()
    for message in messages:
        came.put((1, message))
    return SimpleNamespace(msg_queue=came)


def answer():
    """To a C-STORE of ours."""
    message = C_STORE()
    message.MessageIDBeingRespondedTo = 7
    return message


def request():
    """A report that the peer sends in between."""
    message = N_EVENT_REPORT()
    message.MessageID = 3
    return message


def test_each_gets_its_own_whatever_came_first():
    """A commitment's report may overtake the answer to its request, on the same association."""
    asked, told = answer(), request()
    both = dimse(told, asked)
    assert take(both, response=True, wait_s=1.0) == (1, asked)
    assert take(both, response=False, wait_s=0.0) == (1, told)
    assert take(both, response=False, wait_s=0.0) == (None, None)


def test_what_is_for_the_other_is_left():
    """Neither drops what it does not want."""
    for mine, message in ((True, request()), (False, answer())):
        one = dimse(message)
        assert take(one, response=mine, wait_s=0.05) == (None, None)
        assert take(one, response=not mine, wait_s=0.0) == (1, message)


def test_both_wait_and_each_is_woken_by_its_own():
    """The queue wakes one of two; whoever is woken in vain passes it on."""
    for order in (0, 1):
        line, got = dimse(), {}

        def wait(mine, line=line, got=got):
            began_s = time.monotonic()
            got[mine] = (take(line, response=mine, wait_s=5.0)[1], time.monotonic() - began_s)

        threads = [threading.Thread(target=wait, args=(mine,)) for mine in (True, False)]
        for thread in threads[:: 1 - 2 * order]:
            thread.start()
            time.sleep(0.05)
        asked, told = answer(), request()
        for message in (asked, told):
            line.msg_queue.put((1, message))
            time.sleep(0.05)
        for thread in threads:
            thread.join(6)
        assert (got[True][0], got[False][0]) == (asked, told)
        assert max(each[1] for each in got.values()) < 2


def test_the_end_of_an_association_ends_the_wait():
    """It is said with nothing at all, to whoever waits."""
    over = dimse()
    threading.Timer(0.1, over.msg_queue.put, ((None, None),)).start()
    assert take(over, response=False, wait_s=0.3) == (None, None)
    began_s = time.monotonic()
    assert take(over, response=True, wait_s=None) == (None, None)
    assert time.monotonic() - began_s < 2


def test_late_answers_are_forgotten_and_nothing_else():
    """A double answer must not be taken for that to the next request."""
    told = request()
    line = dimse(answer(), told, answer())
    line.msg_queue.put((None, None))
    drop_responses(line)
    assert list(line.msg_queue.queue) == [(1, told), (None, None)]
