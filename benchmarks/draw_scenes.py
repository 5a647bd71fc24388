"""How many synthetic street images one core draws a second, encoding left out.

OMP_NUM_THREADS=1 python benchmarks/draw_scenes.py
"""

import argparse
import time

from secpipeline.datasets.synthetic import SceneSpec, draw_scene


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=4, help="scenes of each vendor")
    parser.add_argument("--frames", type=int, default=10, help="frames of each scene")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--height", type=int, default=192)
    options = parser.parse_args()
    spec = SceneSpec(options.width, options.height, scenes_per_source=options.scenes, frames_per_scene=options.frames)
    for _ in draw_scene(spec, "vendor-a", 0):  # fills the texture caches
        pass
    started, cpu_started = time.perf_counter(), time.process_time()
    images = people = 0
    for source in spec.source_names:
        for number in range(spec.scenes_per_source):
            for frame in draw_scene(spec, source, number):
                images += 1
                people += len(frame.people)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu_started
    print(f"{images} images of {spec.width}×{spec.height}, {people / images:.1f} people each")
    print(f"{images / wall:.0f} images a second, {images / cpu:.0f} a CPU-second")


if __name__ == "__main__":
    main()
