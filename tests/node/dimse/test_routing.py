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
def test_a_response_is_encoded_as_by_pynetdicom(sop_class, instance, status):
    """Byte by byte; a response with a comment is left to pynetdicom."""
    rsp = C_STORE()
    rsp.MessageIDBeingRespondedTo, rsp.Status = 65535, status
    rsp.AffectedSOPClassUID, rsp.AffectedSOPInstanceUID = sop_class, instance
    message = C_STORE_RSP()
    message.primitive_to_message(rsp)
    (theirs,) = message.encode_msg(5, 16384)
    ours = encode_store_response(rsp, 5, 16384)
    assert ours.presentation_data_value_list == theirs.presentation_data_value_list
    rsp.ErrorComment = "no room"
    assert encode_store_response(rsp, 5, 16384) is None


def test_other_responses_are_left_to_pynetdicom():
    """Those for a peer with small PDUs, and those with a UID that is not ASCII."""
    rsp = C_STORE()
    rsp.MessageIDBeingRespondedTo, rsp.Status = 1, 0xC000
    rsp.AffectedSOPClassUID, rsp.AffectedSOPInstanceUID = CTImageStorage, "1.2.3"
    assert encode_store_response(rsp, 5, 128) is None
    assert encode_store_response(rsp, 5, 0) is not None
    rsp._affected_sop_instance_uid = "1.2.é"
    assert encode_store_response(rsp, 5, 0) is None


def dimse(*messages):
    """A service provider whose queue holds these messages."""
    came = queue.Queue()
    for message in messages:
        came.put((1, message))
    return SimpleNamespace(msg_queue=came)


def a_response():
    """The response to a C-STORE."""
    message = C_STORE()
    message.MessageIDBeingRespondedTo = 7
    return message


def a_request():
    """A report that the peer sends in between."""
    message = N_EVENT_REPORT()
    message.MessageID = 3
    return message


def test_the_order_of_arrival_does_not_matter():
    """A commitment's report may overtake the response to its request on the same association."""
    response, request = a_response(), a_request()
    both = dimse(request, response)
    assert take(both, response=True, wait_s=1.0) == (1, response)
    assert take(both, response=False, wait_s=0.0) == (1, request)
    assert take(both, response=False, wait_s=0.0) == (None, None)


def test_a_message_for_the_other_thread_is_left():
    """Neither thread drops messages of the other."""
    for mine, message in ((True, a_request()), (False, a_response())):
        one = dimse(message)
        assert take(one, response=mine, wait_s=0.05) == (None, None)
        assert take(one, response=not mine, wait_s=0.0) == (1, message)


def test_two_waiting_threads_get_their_own_messages():
    """The queue wakes one of two threads; if it is the wrong one, it wakes the other."""
    for order in (0, 1):
        line, got = dimse(), {}

        def wait(mine, line=line, got=got):
            began_s = time.monotonic()
            got[mine] = (take(line, response=mine, wait_s=5.0)[1], time.monotonic() - began_s)

        threads = [threading.Thread(target=wait, args=(mine,)) for mine in (True, False)]
        for thread in threads[:: 1 - 2 * order]:
            thread.start()
            time.sleep(0.05)
        response, request = a_response(), a_request()
        for message in (response, request):
            line.msg_queue.put((1, message))
            time.sleep(0.05)
        for thread in threads:
            thread.join(6)
        assert (got[True][0], got[False][0]) == (response, request)
        assert max(each[1] for each in got.values()) < 2


def test_the_end_of_an_association_ends_the_wait():
    """None is queued for it, and the thread that awaits a response gets it."""
    over = dimse()
    threading.Timer(0.1, over.msg_queue.put, ((None, None),)).start()
    assert take(over, response=False, wait_s=0.3) == (None, None)
    began_s = time.monotonic()
    assert take(over, response=True, wait_s=None) == (None, None)
    assert time.monotonic() - began_s < 2


def test_only_late_responses_are_dropped():
    """A second response must not count as the response to the next request."""
    request = a_request()
    line = dimse(a_response(), request, a_response())
    line.msg_queue.put((None, None))
    drop_responses(line)
    assert list(line.msg_queue.queue) == [(1, request), (None, None)]
