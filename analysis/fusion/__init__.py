"""What the compiler does with a function: compiled for a target, launch by launch."""

from analysis.fusion.compilation import Compilation as Compilation
from analysis.fusion.compilation import compile_for as compile_for
from analysis.fusion.environment import compile_environment as compile_environment
