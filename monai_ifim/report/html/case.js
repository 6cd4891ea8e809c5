"use strict";
(() => {
  const settings = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const say = (text) => {
    byId("message").textContent = text;
    byId("message").hidden = text === "";
  };
  const script = (source) => new Promise((done, fail) => {
    const node = document.createElement("script"); // trusted because this script is
    node.src = source;
    node.onload = done;
    node.onerror = () => fail(new Error(`${source} is not there`));
    document.head.append(node);
  });

  // Full volumes from `monai-ifim view`, or those that lie beside the page.
  const served = async () => {
    if (!location.protocol.startsWith("http")) return null;
    try {
      const answer = await fetch(`../../volumes/${settings.index}/settings.json`);
      return answer.ok ? await answer.json() : null;
    } catch {
      return null; // another server
    }
  };
  const bytesOf = async (url) => {
    const answer = await fetch(url);
    if (!answer.ok) throw new Error(`${url}: ${answer.status}`);
    const bytes = new Uint8Array(await answer.arrayBuffer());
    let text = "";
    for (let i = 0; i < bytes.length; i += 32768) {
      text += String.fromCharCode(...bytes.subarray(i, i + 32768));
    }
    return btoa(text);
  };
  const round = (value) => Number(value.toPrecision(4));
  const PLANES = { sagittal: "sliceTypeSagittal", coronal: "sliceTypeCoronal",
    axial: "sliceTypeAxial", multi: "sliceTypeMultiplanar", render: "sliceTypeRender" };

  const start = async () => {
    let facts = await served(), base64 = null;
    const full = facts !== null;
    if (!full) {
      if (settings.data === null) {
        throw new Error("The volumes of this case are not in the report; monai-ifim view shows them.");
      }
      await script(settings.data);
      facts = window.ifim.settings;
      base64 = async (name) => window.ifim.volumes[name];
    } else {
      base64 = (name) => bytesOf(`../../volumes/${settings.index}/${name}.nii.gz`);
    }
    await script("../niivue.js");
    const { Niivue, NVImage } = window.niivue;
    const nv = new Niivue({ isRadiologicalConvention: true, sagittalNoseLeft: true,
      backColor: [0, 0, 0, 1], dragAndDropEnabled: false, isOrientationTextVisible: facts.oriented,
      crosshairWidth: 0.3, crosshairWidthUnit: "percent", crosshairColor: [1, 0.85, 0.2, 0.8],
      multiplanarShowRender: 0, loadingText: "", logLevel: "error",
      onLocationChange: (at) => { where(at); } });
    nv.setInterpolation(true); // voxels as they are
    const where = (at) => {
      const values = at.values.map(({ name, value }) => {
        const kind = name.replace(".nii.gz", "");
        const own = value * (facts.scale[kind] || 1);
        return `${kind === "sensitivity" ? "√ diag F" : kind} ${round(own)}`;
      });
      const [x, y, z] = at.mm;
      const place = facts.picture ? `column ${Math.round(-x)}, row ${Math.round(-y)}`
        : `${x.toFixed(1)}, ${y.toFixed(1)}, ${z.toFixed(1)} mm`;
      byId("place").textContent = `At ${place}${facts.coloured ? "" : `: ${values.join(", ")}`}`;
    };
    await nv.attachToCanvas(byId("canvas"));
    const load = async (name, options) => {
      const volume = await NVImage.loadFromBase64({ base64: await base64(name),
        name: `${name}.nii.gz`, ...options });
      volume.dims = volume.dimsRAS; // NiiVue 0.69 asks for it, and leaves it out of such volumes
      nv.addVolume(volume);
      return volume;
    };
    // Each channel has limits of its own.
    let limits = facts.limits[facts.channel];
    const base = { colormap: "gray", cal_min: limits.window[0], cal_max: limits.window[1] };
    const volumes = { image: await load("image", base), orth: await load("orth", base) };
    const shown = { overlay: facts.volumes.includes("sensitivity") ? "sensitivity" : "high",
      channel: facts.channel };
    volumes.high = await load("high", { colormap: "warm", colormapNegative: "winter" });
    if (facts.volumes.includes("sensitivity")) {
      volumes.sensitivity = await load("sensitivity", { colormap: "inferno" });
    } else {
      byId("overlay").querySelector('[value="sensitivity"]').remove();
    }

    const number = (id) => Number(byId(id).value);
    const update = () => {
      const overlay = byId("overlay").value, below = byId("base").value;
      const share = Math.max(0.01, number("top") / 100);
      for (const name of ["image", "orth"]) {
        const volume = volumes[name];
        volume.opacity = name === below ? 1 : 0;
        if (!facts.coloured && number("high") > number("low")) {
          volume.colormap = byId("colours").value; // which resets the window
          volume.cal_min = number("low");
          volume.cal_max = number("high");
        }
      }
      for (const name of ["high", "sensitivity"]) {
        if (!volumes[name]) continue;
        const top = limits.top[name] * share;
        volumes[name].opacity = name === overlay ? number("opacity") : 0;
        volumes[name].cal_min = 0.1 * top; // below a tenth the image is seen
        volumes[name].cal_max = top;
        if (name === "high") {
          volumes[name].cal_minNeg = -top;
          volumes[name].cal_maxNeg = -0.1 * top;
        }
      }
      const end = limits.top[overlay] * share * facts.scale[overlay];
      byId("limits").textContent = overlay === "none" ? ""
        : `Colours of the overlay end at ${overlay === "high" ? "± " : ""}${round(end)}; ` +
          "below a tenth of that it is transparent.";
      const kind = byId("planes").value;
      nv.setSliceType(nv[PLANES[kind]]);
      nv.updateGLVolume();
    };
    const channels = byId("channel");
    facts.channels.forEach((name, i) => {
      const option = document.createElement("option");
      option.value = i;
      option.textContent = name || "1";
      channels.append(option);
    });
    byId("channels").hidden = facts.channels.length < 2;
    for (const id of ["window-low", "window-high", "map"]) byId(id).hidden = facts.coloured;
    channels.value = facts.channel;
    const frames = () => {
      limits = facts.limits[Number(channels.value)];
      byId("low").value = round(limits.window[0]);
      byId("high").value = round(limits.window[1]);
      for (const volume of Object.values(volumes)) {
        if (volume.nFrame4D > 1) nv.setFrame4D(volume.id, Number(channels.value));
      }
    };
    byId("overlay").value = shown.overlay;
    if (facts.plane !== null) {
      byId("planes").value = ["sagittal", "coronal", "axial"][facts.plane];
      byId("cuts").hidden = true;
    }
    const peak = () => {
      nv.scene.crosshairPos = [...facts.peak];
      nv.createOnLocationChange();
      nv.drawScene();
    };
    const changed = (event) => {
      if (event && event.target === channels) frames();
      update();
    };
    byId("controls").addEventListener("input", changed);
    byId("controls").addEventListener("submit", (event) => event.preventDefault());
    byId("peak").addEventListener("click", peak);
    const moves = { ArrowLeft: [1, 0, 0], ArrowRight: [-1, 0, 0], ArrowUp: [0, 1, 0],
      ArrowDown: [0, -1, 0], PageUp: [0, 0, 1], PageDown: [0, 0, -1] };
    // Before NiiVue sees a key: its arrows change the channel of one volume alone.
    byId("viewer").addEventListener("keyup", (event) => event.stopPropagation(), true);
    byId("viewer").addEventListener("keydown", (event) => {
      event.stopPropagation();
      const move = moves[event.key];
      if (!move) return;
      event.preventDefault();
      nv.moveCrosshairInVox(...move);
    }, true);
    frames();
    update();
    peak();
    byId("controls").hidden = false;
    say("");
    const coarse = facts.factors.some((factor) => factor > 1);
    byId("grid").textContent = full
      ? `The scan's own grid of ${facts.shape.join(" × ")} voxels.`
      : coarse
        ? `Means of blocks of ${facts.factors.join(" × ")} voxels of ${facts.shape.join(" × ")}; ` +
          "monai-ifim view shows every voxel."
        : `${facts.shape.join(" × ")} voxels, values rounded to 16 bits.`;
    document.documentElement.dataset.ready = "yes";
    window.viewer = nv;
  };
  start().catch((error) => {
    say(error.message);
    document.documentElement.dataset.ready = "no";
  });
})();
