"""A network camera: an RTSP server that shows one colour, for whoever knows its user and password.

usage: rtsp_server.py PORT USER PASSWORD; prints `ready` once it listens. Needs the typelib of GStreamer's RTSP server.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402 (versions are chosen before)

PICTURE = "( videotestsrc is-live=true pattern=red ! video/x-raw,format=I420,width=160,height=120,framerate=20/1 ! jpegenc ! rtpjpegpay name=pay0 pt=26 )"


def main(port: str, user: str, password: str) -> None:
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)

    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    auth = GstRtspServer.RTSPAuth()
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    for what in ("media.factory.access", "media.factory.construct"):
        permissions.add_permission_for_role("viewer", what, True)

    camera = GstRtspServer.RTSPMediaFactory()
    camera.set_launch(PICTURE)
    camera.set_shared(True)
    camera.set_permissions(permissions)
    server.get_mount_points().add_factory("/live", camera)
    if server.attach(None) == 0:
        sys.exit(f"port {port} cannot be had")
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main(*sys.argv[1:])
