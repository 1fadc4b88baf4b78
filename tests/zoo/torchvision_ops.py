"""torchvision_ops: make a CUDA-built torchvision wheel usable on a CPU-only torch.

    import torchvision_ops, torchvision          # this one first

The wheel's ``_C.so`` needs libtorch_cuda, so it does not load, and ``import torchvision`` dies in
``_meta_registrations`` ("operator torchvision::nms does not exist").  This module defines every operator of
the ``torchvision`` namespace, gives the ones that models use a pure-torch kernel, imports torchvision, and
then tells it that its ops are present.

* nms, qnms: CPU kernels (numpy greedy loop); torchvision itself registers their fake kernels.
* roi_align, roi_pool, ps_roi_align, ps_roi_pool, deform_conv2d: CompositeImplicitAutograd, so autograd,
  torch.func, torch.export and torch.compile see plain aten ops.  No *_backward op is needed.
* the rest (qroi_align, box_iou_rotated, *_backward) is defined without a kernel: calling it raises.

If the real extension loads, nothing is defined.  Importing twice is harmless.
"""

import importlib.util
import os
import sys

import torch

_SCHEMAS = [
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "box_iou_rotated(Tensor boxes1, Tensor boxes2) -> Tensor",
    "_cuda_version() -> int",
    "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, int sampling_ratio, bool aligned) -> Tensor",
    "qroi_align(Tensor input, Tensor rois, float input_scale, int input_zero_point, float rois_scale, int rois_zero_point, float spatial_scale, SymInt pooled_height, SymInt pooled_width, int sampling_ratio, bool aligned) -> Tensor",
    "_roi_align_backward(Tensor grad, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, SymInt batch_size, SymInt channels, SymInt height, SymInt width, int sampling_ratio, bool aligned) -> Tensor",
    "roi_pool(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width) -> (Tensor, Tensor)",
    "_roi_pool_backward(Tensor grad, Tensor rois, Tensor argmax, float spatial_scale, SymInt pooled_height, SymInt pooled_width, SymInt batch_size, SymInt channels, SymInt height, SymInt width) -> Tensor",
    "ps_roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, int sampling_ratio) -> (Tensor, Tensor)",
    "_ps_roi_align_backward(Tensor grad, Tensor rois, Tensor channel_mapping, float spatial_scale, SymInt pooled_height, SymInt pooled_width, int sampling_ratio, SymInt batch_size, SymInt channels, SymInt height, SymInt width) -> Tensor",
    "ps_roi_pool(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width) -> (Tensor, Tensor)",
    "_ps_roi_pool_backward(Tensor grad, Tensor rois, Tensor channel_mapping, float spatial_scale, SymInt pooled_height, SymInt pooled_width, SymInt batch_size, SymInt channels, SymInt height, SymInt width) -> Tensor",
    "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt stride_h, SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, SymInt groups, SymInt offset_groups, bool use_mask) -> Tensor",
    "_deform_conv2d_backward(Tensor grad, Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt stride_h, SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, SymInt groups, SymInt offset_groups, bool use_mask) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
]


# ---------------------------------------------------------------------------------------------- kernels
def nms(dets, scores, iou_threshold):
    """Greedy NMS, indices in decreasing order of score (CPU)."""
    if dets.numel() == 0:
        return torch.empty(0, dtype=torch.long)
    order = scores.detach().argsort(descending=True, stable=True).numpy()
    b = dets.detach().to(torch.float64 if dets.dtype == torch.float64 else torch.float32).numpy()
    x1, y1, x2, y2 = b[:, 0], b[:, 1], b[:, 2], b[:, 3]
    area = (x2 - x1) * (y2 - y1)
    keep = []
    while order.size:
        i, rest = order[0], order[1:]
        keep.append(int(i))
        w = (x2[rest].clip(max=x2[i]) - x1[rest].clip(min=x1[i])).clip(min=0)
        h = (y2[rest].clip(max=y2[i]) - y1[rest].clip(min=y1[i])).clip(min=0)
        inter = w * h
        # "not (iou > t)", as the C++ kernel does: a 0/0 IoU (degenerate boxes) keeps the box
        order = rest[~(inter > iou_threshold * (area[i] + area[rest] - inter))]
    return torch.tensor(keep, dtype=torch.long)


def _bilinear(feat, y, x):
    """feat [C,H,W]; y, x [...] in pixels -> [C, ...].  Border rule of roi_align: a point further than one
    pixel outside is 0, otherwise it is clamped to the map."""
    C, H, W = feat.shape
    ok = (y >= -1) & (y <= H) & (x >= -1) & (x <= W)
    y, x = y.clamp(0, H - 1), x.clamp(0, W - 1)
    y0, x0 = y.floor().long(), x.floor().long()
    y1, x1 = (y0 + 1).clamp(max=H - 1), (x0 + 1).clamp(max=W - 1)
    ly, lx = y - y0, x - x0
    f = feat.reshape(C, H * W)

    def at(yy, xx):
        return f[:, (yy * W + xx).reshape(-1)].reshape(C, *yy.shape)

    v = (
        at(y0, x0) * ((1 - ly) * (1 - lx))
        + at(y0, x1) * ((1 - ly) * lx)
        + at(y1, x0) * (ly * (1 - lx))
        + at(y1, x1) * (ly * lx)
    )
    return v * ok.to(v.dtype)


def _roi_grids(rois, spatial_scale, ph, pw, sampling_ratio, aligned, min_size):
    """Per roi: image index, sample rows [ph, gh], sample columns [pw, gw]."""
    off = 0.5 if aligned else 0.0
    with torch.no_grad():
        for r in rois:
            b = int(r[0])
            xs, ys, xe, ye = (r[1:] * spatial_scale - off).unbind()
            rw, rh = xe - xs, ye - ys
            if not aligned:
                rw, rh = rw.clamp(min=min_size), rh.clamp(min=min_size)
            bh, bw = rh / ph, rw / pw
            gh = sampling_ratio if sampling_ratio > 0 else max(int(torch.ceil(bh)), 0)
            gw = sampling_ratio if sampling_ratio > 0 else max(int(torch.ceil(bw)), 0)
            iy = (torch.arange(gh, dtype=r.dtype) + 0.5) / max(gh, 1)
            ix = (torch.arange(gw, dtype=r.dtype) + 0.5) / max(gw, 1)
            y = ys + (torch.arange(ph, dtype=r.dtype)[:, None] + iy[None]) * bh
            x = xs + (torch.arange(pw, dtype=r.dtype)[:, None] + ix[None]) * bw
            yield b, y, x


def roi_align(input, rois, spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned):
    K, C, ph, pw = rois.shape[0], input.shape[1], int(pooled_height), int(pooled_width)
    if K == 0:
        return input.new_zeros((0, C, ph, pw)) + input.sum() * 0
    if sampling_ratio > 0:  # the usual case, batched over rois
        out = []
        s, off = int(sampling_ratio), 0.5 if aligned else 0.0
        N, _, H, W = input.shape
        flat = input.permute(0, 2, 3, 1).reshape(N * H * W, C)
        g = (torch.arange(s, dtype=rois.dtype) + 0.5) / s
        for r in rois.split(128):
            xs, ys, xe, ye = (r[:, 1:] * spatial_scale - off).unbind(1)
            rw, rh = xe - xs, ye - ys
            if not aligned:
                rw, rh = rw.clamp(min=1.0), rh.clamp(min=1.0)
            k = r.shape[0]
            y = ys[:, None] + ((torch.arange(ph, dtype=r.dtype)[:, None] + g).reshape(1, -1)) * (rh / ph)[:, None]
            x = xs[:, None] + ((torch.arange(pw, dtype=r.dtype)[:, None] + g).reshape(1, -1)) * (rw / pw)[:, None]
            yok, xok = (y >= -1) & (y <= H), (x >= -1) & (x <= W)
            y, x = y.clamp(0, H - 1), x.clamp(0, W - 1)
            y0, x0 = y.floor().long(), x.floor().long()
            y1, x1 = (y0 + 1).clamp(max=H - 1), (x0 + 1).clamp(max=W - 1)
            ly, lx = (y - y0), (x - x0)
            base = (r[:, 0].long() * (H * W))[:, None, None]
            acc = 0
            for yy, wy in ((y0, (1 - ly) * yok), (y1, ly * yok)):
                for xx, wx in ((x0, (1 - lx) * xok), (x1, lx * xok)):
                    idx = base + yy[:, :, None] * W + xx[:, None, :]
                    acc = acc + flat[idx.reshape(-1)].reshape(k, ph * s, pw * s, C) * (wy[:, :, None] * wx[:, None, :])[
                        ..., None
                    ].to(flat.dtype)
            out.append(acc.reshape(k, ph, s, pw, s, C).mean((2, 4)).permute(0, 3, 1, 2))
        return torch.cat(out)
    out = []
    for b, y, x in _roi_grids(rois, spatial_scale, ph, pw, sampling_ratio, aligned, 1.0):
        gh, gw = y.shape[1], x.shape[1]
        if gh == 0 or gw == 0:
            out.append(input.new_zeros((C, ph, pw)))
            continue
        Y = y.reshape(-1, 1).expand(-1, pw * gw)
        X = x.reshape(1, -1).expand(ph * gh, -1)
        out.append(_bilinear(input[b], Y, X).reshape(C, ph, gh, pw, gw).mean((2, 4)))
    return torch.stack(out)


def roi_pool(input, rois, spatial_scale, pooled_height, pooled_width):
    K, (N, C, H, W), ph, pw = rois.shape[0], input.shape, int(pooled_height), int(pooled_width)
    out = [input.new_zeros((0, C, ph, pw))]
    arg = [torch.zeros((0, C, ph, pw), dtype=torch.int32)]
    for r in rois:
        b = int(r[0])
        xs, ys, xe, ye = (int(torch.floor(v * spatial_scale + 0.5)) for v in r[1:])  # C's round on positives
        rw, rh = max(xe - xs + 1, 1), max(ye - ys + 1, 1)
        vals, idxs = [], []
        for i in range(ph):
            h0 = min(max(i * rh // ph + ys, 0), H)
            h1 = min(max(-(-(i + 1) * rh // ph) + ys, 0), H)
            for j in range(pw):
                w0 = min(max(j * rw // pw + xs, 0), W)
                w1 = min(max(-(-(j + 1) * rw // pw) + xs, 0), W)
                if h1 <= h0 or w1 <= w0:
                    vals.append(input.new_zeros(C))
                    idxs.append(torch.full((C,), -1))
                    continue
                v, k = input[b, :, h0:h1, w0:w1].reshape(C, -1).max(1)
                vals.append(v)
                idxs.append((h0 + k // (w1 - w0)) * W + w0 + k % (w1 - w0))
        out.append(torch.stack(vals, 1).reshape(1, C, ph, pw))
        arg.append(torch.stack(idxs, 1).reshape(1, C, ph, pw).to(torch.int32))
    return torch.cat(out), torch.cat(arg)


def ps_roi_align(input, rois, spatial_scale, pooled_height, pooled_width, sampling_ratio):
    ph, pw, C = int(pooled_height), int(pooled_width), input.shape[1]
    co = C // (ph * pw)
    cmap = torch.arange(C, dtype=torch.int32).reshape(1, co, ph, pw).expand(rois.shape[0], -1, -1, -1).contiguous()
    out = [input.new_zeros((0, co, ph, pw))]
    i, j = torch.arange(ph)[:, None], torch.arange(pw)[None]
    # as the C++ kernel: half-pixel offset, sizes not clamped
    for b, y, x in _roi_grids(rois, spatial_scale, ph, pw, sampling_ratio, True, 0.0):
        gh, gw = y.shape[1], x.shape[1]
        if gh == 0 or gw == 0:
            out.append(input.new_zeros((1, co, ph, pw)))
            continue
        full = _bilinear(input[b], y.reshape(-1, 1).expand(-1, pw * gw), x.reshape(1, -1).expand(ph * gh, -1))
        full = full.reshape(co, ph, pw, ph, gh, pw, gw).mean((4, 6))
        out.append(full[:, i, j, i, j][None])
    return torch.cat(out), cmap


def ps_roi_pool(input, rois, spatial_scale, pooled_height, pooled_width):
    ph, pw, (N, C, H, W) = int(pooled_height), int(pooled_width), input.shape
    co = C // (ph * pw)
    cmap = torch.arange(C, dtype=torch.int32).reshape(1, co, ph, pw).expand(rois.shape[0], -1, -1, -1).contiguous()
    out = [input.new_zeros((0, co, ph, pw))]
    for r in rois:
        x = input[int(r[0])].reshape(co, ph, pw, H, W)
        xs, ys, xe, ye = (int(torch.floor(v * spatial_scale + 0.5)) for v in r[1:])
        bh, bw = max(ye - ys, 1) / ph, max(xe - xs, 1) / pw
        cells = []
        for i in range(ph):
            h0, h1 = (min(max(v, 0), H - 1) for v in (int(i * bh // 1) + ys, int(-(-(i + 1) * bh // 1)) + ys))
            for j in range(pw):
                w0, w1 = (min(max(v, 0), W - 1) for v in (int(j * bw // 1) + xs, int(-(-(j + 1) * bw // 1)) + xs))
                cells.append(x[:, i, j, h0:h1, w0:w1].mean((1, 2)) if h1 > h0 and w1 > w0 else input.new_zeros(co))
        out.append(torch.stack(cells, 1).reshape(1, co, ph, pw))
    return torch.cat(out), cmap


def deform_conv2d(
    input,
    weight,
    offset,
    mask,
    bias,
    stride_h,
    stride_w,
    pad_h,
    pad_w,
    dilation_h,
    dilation_w,
    groups,
    offset_groups,
    use_mask,
):
    N, C, H, W = input.shape
    O, _, kh, kw = weight.shape
    og = int(offset_groups)
    Ho = (H + 2 * pad_h - (dilation_h * (kh - 1) + 1)) // stride_h + 1
    Wo = (W + 2 * pad_w - (dilation_w * (kw - 1) + 1)) // stride_w + 1
    off = offset.reshape(N, og, kh, kw, 2, Ho, Wo)
    dt = offset.dtype
    ky = (torch.arange(kh, dtype=dt) * dilation_h)[:, None, None, None] - pad_h
    kx = (torch.arange(kw, dtype=dt) * dilation_w)[None, :, None, None] - pad_w
    y = off[:, :, :, :, 0] + ky + (torch.arange(Ho, dtype=dt) * stride_h)[:, None]
    x = off[:, :, :, :, 1] + kx + torch.arange(Wo, dtype=dt) * stride_w
    y0, x0 = y.floor(), x.floor()
    ly, lx = y - y0, x - x0
    feat = input.reshape(N, og, C // og, H * W)
    cols = 0
    for dy, wy in ((0, 1 - ly), (1, ly)):
        for dx, wx in ((0, 1 - lx), (1, lx)):
            yy, xx = y0 + dy, x0 + dx
            w = wy * wx * ((yy >= 0) & (yy < H) & (xx >= 0) & (xx < W)).to(dt)
            idx = (yy.clamp(0, H - 1) * W + xx.clamp(0, W - 1)).long().reshape(N, og, 1, -1)
            cols = cols + feat.gather(3, idx.expand(-1, -1, C // og, -1)) * w.reshape(N, og, 1, -1)
    if use_mask:
        cols = cols * mask.reshape(N, og, 1, -1)
    g = int(groups)
    cols = cols.reshape(N, g, C // g * kh * kw, Ho * Wo)
    w = weight.reshape(g, O // g, -1)
    out = torch.einsum("gok,ngkp->ngop", w, cols).reshape(N, O, Ho, Wo)
    return out + bias.reshape(1, -1, 1, 1)


# ------------------------------------------------------------------------------------------- installation
def _real_extension_loads():
    spec = importlib.util.find_spec("torchvision")
    if spec is None:
        return True  # no torchvision: nothing to shim
    so = os.path.join(os.path.dirname(spec.origin), "_C.so")
    if not os.path.exists(so):
        so = os.path.join(os.path.dirname(spec.origin), "_C_stable.so")
    try:
        torch.ops.load_library(so)
        return True
    except (OSError, ImportError):
        return False


def _install():
    lib = torch.library.Library("torchvision", "DEF")
    for s in _SCHEMAS:
        lib.define(s)
    lib.impl("nms", nms, "CPU")
    lib.impl("qnms", nms, "CPU")
    lib.impl("_cuda_version", lambda: -1, "CompositeExplicitAutograd")
    for f in (roi_align, roi_pool, ps_roi_align, ps_roi_pool, deform_conv2d):
        lib.impl(f.__name__, f, "CompositeImplicitAutograd")
    import torchvision

    yes = lambda: True  # noqa: E731
    torchvision.extension._has_ops = yes
    sys.modules["torchvision.ops.roi_align"]._has_ops = yes
    return lib


_lib = None if ("torchvision" in sys.modules or _real_extension_loads()) else _install()
